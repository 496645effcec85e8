//! What Python makes of values: `str`, `repr`, `json.dumps`, `str.strip`.
//!
//! Chat templates were written for Jinja2, and the model was trained on what Python printed.
//! minijinja agrees on most of it; floats, quotes in lists and the exotic white space are here.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// `str(value)`. Undefined is empty, as Jinja2 prints it.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            write_repr(&mut out, value)?;
            Ok(out)
        }
    }
}

/// `json.dumps(value, ensure_ascii=False)`: separators `, ` and `: `, keys in order of insertion.
pub(super) fn json_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value)?;
    Ok(out)
}

/// Which ends of a text to strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Left,
    Right,
    Both,
}

/// `text.strip(chars)` and its one-sided kin; white space without `chars`.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let goes = |c: char| match chars {
        Some(chars) => chars.contains(c),
        // Python counts the four information separators as white space.
        None => c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c),
    };
    let text = if ends == Ends::Right { text } else { text.trim_start_matches(goes) };
    if ends == Ends::Left { text } else { text.trim_end_matches(goes) }
}

fn write_repr(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => write_number(out, value),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            write_list(out, value, write_repr)?;
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            write_pairs(out, value, write_repr)?;
            out.push('}');
        }
        // minijinja writes `True`, `False` and `None` as Python does.
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn write_json(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => {
            let text = serde_json::to_string(value.as_str().unwrap_or_default());
            out.push_str(&text.expect("a string is valid JSON"));
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            write_list(out, value, write_json)?;
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            write_pairs(out, value, write_json)?;
            out.push('}');
        }
        kind => {
            let reason = format!("a value of type {kind} cannot be written as JSON");
            return Err(Error::new(ErrorKind::BadSerialization, reason));
        }
    }
    Ok(())
}

type Write = fn(&mut String, &Value) -> Result<(), Error>;

fn write_list(out: &mut String, list: &Value, write: Write) -> Result<(), Error> {
    for (i, item) in list.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(out, &item)?;
    }
    Ok(())
}

fn write_pairs(out: &mut String, map: &Value, write: Write) -> Result<(), Error> {
    for (i, key) in map.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(out, &key)?;
        out.push_str(": ");
        write(out, &map.get_item(&key)?)?;
    }
    Ok(())
}

fn write_number(out: &mut String, value: &Value) {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => write_float(out, float),
        _ => out.push_str(&value.to_string()),
    }
}

/// `repr(float)`: the fewest digits that read back as the same number, with an exponent from
/// 1e16 upward and below 1e-4.
fn write_float(out: &mut String, float: f64) {
    if !float.is_finite() {
        let sign = if float < 0.0 { "-" } else { "" };
        let name = if float.is_nan() { "nan" } else { "inf" };
        out.push_str(&format!("{sign}{name}"));
        return;
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes an exponent");
    if (-4..16).contains(&exponent) {
        let fixed = float.to_string();
        out.push_str(&fixed);
        if !fixed.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        out.push_str(&format!("{digits}e{sign}{:02}", exponent.abs()));
    }
}

/// `repr(str)`: single quotes, unless only the text has those. Which characters Python escapes
/// as unprintable follows its Unicode tables; here they are the control and format characters
/// of Latin-1.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            '\0'..='\x1F' | '\x7F'..='\u{A0}' | '\u{AD}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases: [(f64, &str); 14] = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (123_456_789.123, "123456789.123"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (float, expected) in cases {
            assert_eq!(str_of(&Value::from(float)).unwrap(), expected);
        }
    }

    #[test]
    fn scalars_are_written_as_python_writes_them() {
        let big = u64::MAX;
        let values = [
            Value::from(true),
            Value::from(()),
            Value::from(-7),
            Value::from(big),
            Value::UNDEFINED,
        ];
        let texts = values.map(|v| str_of(&v).unwrap());
        assert_eq!(texts, ["True", "None", "-7", "18446744073709551615", ""]);
    }

    #[test]
    fn containers_are_written_as_python_writes_them() {
        let value = Value::from_pairs([
            ("b", Value::from(vec![Value::from("it's"), Value::from("a \"b\" 'c'\n\x07")])),
            ("a", Value::from(vec![Value::from(false), Value::from(1.0)])),
        ]);
        let expected = r#"{'b': ["it's", 'a "b" \'c\'\n\x07'], 'a': [False, 1.0]}"#;
        assert_eq!(str_of(&value).unwrap(), expected);
    }

    #[test]
    fn json_keeps_order_and_letters_and_escapes_only_what_it_must() {
        let value = Value::from_pairs([
            ("z", Value::from("é <b>'\"\\\u{8}\u{1f}\u{7f}\n")),
            ("a", Value::from(vec![Value::from(()), Value::from(true), Value::from(1e16)])),
        ]);
        let expected = "{\"z\": \"é <b>'\\\"\\\\\\b\\u001f\u{7f}\\n\", \"a\": [null, true, 1e+16]}";
        assert_eq!(json_of(&value).unwrap(), expected);
    }

    #[test]
    fn undefined_is_no_json() {
        assert!(json_of(&Value::UNDEFINED).is_err());
    }

    #[test]
    fn strip_takes_what_python_calls_white_space() {
        assert_eq!(strip("\u{1c}\u{a0}\t a \u{85}\u{1f}", None, Ends::Both), "a");
        assert_eq!(strip("\u{200b}a", None, Ends::Both), "\u{200b}a");
        assert_eq!(strip("xyax", Some("yx"), Ends::Left), "ax");
        assert_eq!(strip("xyax", Some("x"), Ends::Right), "xya");
    }
}
