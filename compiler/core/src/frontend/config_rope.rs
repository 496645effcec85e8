//! Rotary positions: what the config says of them, and the frequencies that follow (spec
//! section 6).
//!
//! The frequencies are computed once, here, so that no kernel and no two targets ever disagree
//! about them. Powers and logarithms are taken in float64 and everything else in float32 in the
//! reference's order, because at position 262,143 one unit in the last place of a frequency
//! already turns an angle by 0.01.

use super::config::Note;
use super::config_error::ConfigError;
use super::config_read::{Field, Object};
use std::f64::consts::PI;

/// Positions of attention, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// `r`: the leading dimensions of a head that are rotated, even; the rest pass through.
    pub width: u32,
    /// `mrope_section`: of time, height and width. Only the last two decide: see [`Rope::axis`].
    pub sections: [u32; 3],
    pub yarn: Option<Yarn>,
}

/// Context extension by YaRN (spec 6.4), every derived number resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// `s`: how many times longer the context is.
    pub factor: f64,
    /// `L`: the context of training.
    pub original: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub truncate: bool,
    /// Multiplies cos and sin.
    pub attention_factor: f64,
}

impl Rope {
    /// `f_j` for j in 0..r/2, and the factor on cos and sin (1 without YaRN).
    pub fn frequencies(&self) -> (Vec<f32>, f32) {
        let powers = (0..self.width / 2).map(|j| {
            let exponent = (2 * j) as f32 / self.width as f32;
            self.theta.powf(exponent.into()) as f32
        });
        let Some(yarn) = &self.yarn else {
            return (powers.map(|p| 1.0 / p).collect(), 1.0);
        };
        let (lo, hi) = yarn.ramp_ends(self.theta, self.width);
        let stretched = |(j, power): (usize, f32)| {
            let ramp = ((j as f32 - lo as f32) / (hi - lo) as f32).clamp(0.0, 1.0);
            let (slow, fast) = (1.0 / (yarn.factor as f32 * power), 1.0 / power);
            let kept = 1.0 - ramp;
            slow * (1.0 - kept) + fast * kept
        };
        let frequencies = powers.enumerate().map(stretched).collect();
        (frequencies, yarn.attention_factor as f32)
    }

    /// Which of the three positions frequency `j` turns with: 0 time, 1 height, 2 width
    /// (spec 6.2, interleaved).
    pub fn axis(&self, j: u32) -> usize {
        match j % 3 {
            1 if j < 3 * self.sections[1] => 1,
            2 if j < 3 * self.sections[2] => 2,
            _ => 0,
        }
    }
}

impl Yarn {
    /// `lo` and `hi`: frequencies below the one keep their speed, above the other turn `s` times
    /// slower.
    fn ramp_ends(&self, theta: f64, width: u32) -> (f64, f64) {
        let dim = |beta: f64| {
            let turns = self.original / (2.0 * PI * beta);
            f64::from(width) * turns.ln() / (2.0 * theta.ln())
        };
        let (mut lo, mut hi) = (dim(self.beta_fast), dim(self.beta_slow));
        if self.truncate {
            (lo, hi) = (lo.floor(), hi.ceil());
        }
        (lo, hi) = (lo.max(0.0), hi.min(f64::from(width) - 1.0));
        if lo == hi {
            hi += 0.001;
        }
        (lo, hi)
    }
}

/// Read the rotary part of a text model.
pub(super) fn parse(
    text: &Object,
    head_dim: u32,
    max_position_embeddings: u32,
) -> Result<(Rope, Option<Note>), ConfigError> {
    let keys = Keys::of(text)?;
    let yarn = match keys.rope_type()? {
        Type::Default => None,
        Type::Yarn => Some(yarn(&keys, max_position_embeddings)?),
    };
    let (sections, note_sum) = sections(&keys)?;
    let rope = Rope {
        theta: keys.number("rope_theta", 1e4, 1.0001..=1e15)?,
        width: width(&keys, head_dim)?,
        sections,
        yarn,
    };
    let (frequencies, attention_factor) = rope.frequencies();
    let usable = |x: f32| x.is_finite() && x > 0.0;
    if !frequencies.into_iter().all(usable) || !usable(attention_factor) {
        return Err(ConfigError::RopeDegenerate {
            field: text.path_of("rope_parameters"),
            at: text.place_of("rope_parameters").or_else(|| text.place_of("rope_scaling")),
        });
    }
    let frequencies = rope.width / 2;
    let note = note_sum
        .filter(|&sum| sum != u64::from(frequencies))
        .map(|sum| Note::MropeSection { sum, frequencies });
    Ok((rope, note))
}

enum Type {
    Default,
    Yarn,
}

/// Where rotary keys may stand, the first to have one wins. As in the reference, `rope_scaling`
/// (the older name) comes before `rope_parameters`, and a nested value before one that stands
/// beside.
struct Keys<'a> {
    nested: Vec<Object<'a>>,
    beside: Object<'a>,
}

impl<'a> Keys<'a> {
    fn of(text: &Object<'a>) -> Result<Self, ConfigError> {
        let nested = [text.object("rope_scaling")?, text.object("rope_parameters")?];
        Ok(Keys { nested: nested.into_iter().flatten().collect(), beside: text.clone() })
    }

    fn nested(&self, key: &str) -> Option<Field<'a>> {
        self.nested.iter().find_map(|o| o.some(key))
    }

    /// Of the keys that may also stand beside `rope_parameters`.
    fn anywhere(&self, key: &str) -> Option<Field<'a>> {
        self.nested(key).or_else(|| self.beside.some(key))
    }

    fn rope_type(&self) -> Result<Type, ConfigError> {
        let field = self.nested.iter().find_map(|o| o.some("rope_type").or_else(|| o.some("type")));
        let Some(field) = field else {
            return Ok(Type::Default);
        };
        match field.text()? {
            "default" => Ok(Type::Default),
            "yarn" => Ok(Type::Yarn),
            _ => Err(field.unsupported(
                "\"default\" or \"yarn\"",
                Some("Qwen3.5 extends its context with YaRN only"),
            )),
        }
    }

    fn number(
        &self,
        key: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, ConfigError> {
        let Some(field) = self.anywhere(key) else {
            return Ok(default);
        };
        let n = field.number()?;
        if range.contains(&n) {
            return Ok(n);
        }
        let (least, most) = range.into_inner();
        Err(field.out_of_range(format!("a number from {least} to {most:e}")))
    }
}

/// The even number of rotated dimensions that `partial_rotary_factor` leaves.
fn width(keys: &Keys, head_dim: u32) -> Result<u32, ConfigError> {
    let field = keys.anywhere("partial_rotary_factor");
    let factor = field.as_ref().map_or(Ok(0.25), Field::number)?;
    let width = (f64::from(head_dim) * factor) as u32;
    if width.is_multiple_of(2) && (2..=head_dim).contains(&width) {
        return Ok(width);
    }
    Err(ConfigError::RotaryWidth {
        field: match &field {
            Some(field) => field.path.clone(),
            None => keys.beside.path_of("partial_rotary_factor"),
        },
        factor,
        width,
        head_dim,
        at: field.map(|f| f.at()).or_else(|| keys.beside.place_of("head_dim")),
    })
}

/// `mrope_section`, and its sum where the file gives it.
fn sections(keys: &Keys) -> Result<([u32; 3], Option<u64>), ConfigError> {
    if let Some(field) = keys.anywhere("mrope_interleaved")
        && !field.flag()?
    {
        return Err(field.unsupported(
            "true",
            Some("in Qwen3.5 the position axes are interleaved over the frequencies"),
        ));
    }
    let Some(field) = keys.anywhere("mrope_section") else {
        return Ok(([11, 11, 10], None));
    };
    let entries = field.array()?;
    let sizes: Vec<u32> = entries.iter().map(|e| e.size(0..=1024)).collect::<Result<_, _>>()?;
    let Ok(sections) = <[u32; 3]>::try_from(sizes) else {
        return Err(field.wrong_type("an array of three whole numbers"));
    };
    Ok((sections, Some(sections.map(u64::from).iter().sum())))
}

fn yarn(keys: &Keys, max_position_embeddings: u32) -> Result<Yarn, ConfigError> {
    const POSITIVE: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
    let original = match keys.anywhere("original_max_position_embeddings") {
        Some(field) => field.size(1..=1 << 24)?,
        None => max_position_embeddings,
    };
    let stretch = f64::from(max_position_embeddings) / f64::from(original);
    let factor = keys.number("factor", stretch, POSITIVE)?;
    let beta_fast = keys.number("beta_fast", 32.0, POSITIVE)?;
    let beta_slow = keys.number("beta_slow", 1.0, POSITIVE)?;
    if beta_fast < beta_slow
        && let Some(field) = keys.nested("beta_fast").or_else(|| keys.nested("beta_slow"))
    {
        return Err(ConfigError::OutOfRange {
            field: field.path.clone(),
            found: field.found(),
            expected: "a `beta_fast` that is not below `beta_slow`".into(),
            at: field.at(),
        });
    }
    let mscale = keys.number("mscale", 0.0, 0.0..=1e6)?;
    let mscale_all_dim = keys.number("mscale_all_dim", 0.0, 0.0..=1e6)?;
    let magnitude = |c: f64| match factor {
        s if s > 1.0 => 0.1 * c * s.ln() + 1.0,
        _ => 1.0,
    };
    let derived = if mscale != 0.0 && mscale_all_dim != 0.0 {
        magnitude(mscale) / magnitude(mscale_all_dim)
    } else {
        magnitude(1.0)
    };
    Ok(Yarn {
        factor,
        original: f64::from(original),
        beta_fast,
        beta_slow,
        truncate: match keys.nested("truncate") {
            Some(field) => field.flag()?,
            None => true,
        },
        attention_factor: keys.number("attention_factor", derived, POSITIVE)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(yarn: Option<Yarn>) -> Rope {
        Rope { theta: 1e7, width: 64, sections: [11, 11, 10], yarn }
    }

    fn close(got: f32, wanted: f64) {
        let error = (f64::from(got) - wanted).abs() / wanted;
        assert!(error < 3e-7, "{got:e} is not {wanted:e}");
    }

    #[test]
    fn plain_frequencies_are_those_of_the_reference() {
        let (f, factor) = published(None).frequencies();
        assert_eq!((f.len(), f[0], factor), (32, 1.0, 1.0));
        close(f[15], 5.232991e-4);
        close(f[18], 1.154782e-4);
        close(f[31], 1.654817e-7);
    }

    #[test]
    fn yarn_frequencies_are_those_of_the_reference() {
        let yarn = Yarn {
            factor: 4.0,
            original: 262_144.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: 0.1 * 4f64.ln() + 1.0,
        };
        assert_eq!(yarn.ramp_ends(1e7, 64), (14.0, 22.0));
        let (f, factor) = published(Some(yarn)).frequencies();
        close(factor, 1.138629436);
        close(f[0], 1.0);
        close(f[13], 1.433013e-3);
        close(f[14], 8.659643e-4);
        close(f[15], 4.742398e-4);
        close(f[18], 7.217387e-5);
        close(f[22], 3.849816e-6);
        close(f[31], 4.137043e-8);
    }

    #[test]
    fn axes_are_interleaved() {
        let rope = published(None);
        let of = |axis| (0..32).filter(|&j| rope.axis(j) == axis).collect::<Vec<_>>();
        assert_eq!(of(0), [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]);
        assert_eq!(of(1), [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31]);
        assert_eq!(of(2), [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]);
    }
}
