//! How an error reaches the user: one line, then the place, then advice.
//!
//! Libraries say what is wrong in one line and where in bytes. This puts the two together with
//! the text, in the form that Rust users know from their compiler.

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use std::io::IsTerminal;
use std::ops::Range;

/// Where in a file something is wrong.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The name under which the user knows the file.
    pub file: &'a str,
    pub text: &'a str,
    /// Bytes of `text`; without them the file alone is named.
    pub at: Option<Range<usize>>,
}

/// The text of an error for stderr, with no line break at its end. Coloured if stderr is a
/// terminal and `NO_COLOR` is not set.
pub fn render(message: &str, place: Option<Place>, help: Option<&str>) -> String {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let colored = std::io::stderr().is_terminal() && !no_color;
    let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
    render_with(&renderer, message, place, help)
}

fn render_with(
    renderer: &Renderer,
    message: &str,
    place: Option<Place>,
    help: Option<&str>,
) -> String {
    let title = Level::ERROR.primary_title(message);
    let help = help.map(|help| Level::HELP.message(help));
    let Some(place) = place else {
        return match help {
            Some(help) => renderer.render(&[title.element(help)]),
            None => renderer.render(&[annotate_snippets::Group::with_title(title)]),
        };
    };
    let group = match place.at {
        Some(at) => {
            let at = within(place.text, at);
            let snippet = Snippet::source(place.text).path(place.file);
            title.element(snippet.annotation(AnnotationKind::Primary.span(at)))
        }
        None => title.element(Origin::path(place.file)),
    };
    renderer.render(&[group.elements(help)])
}

/// `at`, cut to what the text has, on character boundaries.
fn within(text: &str, at: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(at.start);
    let end = text.floor_char_boundary(at.end);
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_core::frontend::config::Config;

    fn shown(text: &str) -> String {
        let error = Config::parse(text).unwrap_err();
        let place = Place { file: "config.json", text, at: error.span() };
        render_with(&Renderer::plain(), &error.to_string(), Some(place), error.help())
    }

    #[test]
    fn an_error_shows_its_place_and_advice() {
        let text = r#"{
  "model_type": "qwen3_5_text", "layer_types": [
    "full_attention",
    "sliding_attention"
  ], "num_hidden_layers": 2
}"#;
        assert_eq!(
            shown(text),
            r#"error: `layer_types[1]` is "sliding_attention", expected "linear_attention" or "full_attention"
 --> config.json:4:5
  |
4 |     "sliding_attention"
  |     ^^^^^^^^^^^^^^^^^^^
  |
  = help: no Qwen3.5 has such a layer; is this the config of another model?"#
        );
    }

    #[test]
    fn an_error_without_advice_ends_with_its_place() {
        let text = r#"{"model_type": "qwen3_5_text", "head_dim": -1}"#;
        assert_eq!(
            shown(text),
            r#"error: `head_dim` is -1, expected a whole number from 1 to 1024
 --> config.json:1:44
  |
1 | {"model_type": "qwen3_5_text", "head_dim": -1}
  |                                            ^^"#
        );
    }

    #[test]
    fn the_end_of_a_file_is_a_place() {
        assert_eq!(
            shown("{\n  \"a\": 1"),
            r#"error: not JSON: the end of the file where `,` or `}` should stand
 --> config.json:2:9
  |
2 |   "a": 1
  |         ^
  |
  = help: expected the `config.json` that comes with a checkpoint"#
        );
        assert!(shown("").starts_with("error: not JSON: the end of the file"));
    }

    #[test]
    fn an_error_about_a_whole_file_names_it() {
        let place = Place { file: "config.json", text: "", at: None };
        assert_eq!(
            render_with(&Renderer::plain(), "too large", Some(place), None),
            "error: too large\n--> config.json"
        );
    }

    #[test]
    fn an_error_of_no_file_is_a_line_and_its_advice() {
        let plain = |help| render_with(&Renderer::plain(), "no such file `x`", None, help);
        assert_eq!(plain(None), "error: no such file `x`");
        assert_eq!(plain(Some("give a path")), "error: no such file `x`\n |\n = help: give a path");
    }

    #[test]
    fn a_place_beyond_the_text_is_cut_to_it() {
        for at in [0..99, 99..100, 1..2, Range { start: 2, end: 1 }] {
            let place = Place { file: "f", text: "é", at: Some(at) };
            let shown = render_with(&Renderer::plain(), "m", Some(place), None);
            assert!(shown.starts_with("error: m\n --> f:1:"), "{shown}");
        }
    }
}
