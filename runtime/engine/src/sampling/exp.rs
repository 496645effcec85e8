//! `exp` in float64 arithmetic that is the same on every host.
//!
//! The standard library's comes from the platform and may differ in the last bit, which is
//! enough to choose another token somewhere in a long text.

/// `eˣ` for `x <= 0`, within a few units in the last place; 0 below -700.
pub(super) fn exp(x: f64) -> f64 {
    debug_assert!(x <= 0.0);
    if x < -700.0 {
        return 0.0;
    }
    // Adding and taking away 1.5 * 2⁵² rounds to an integer without a call.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // x = n ln 2 + r with |r| <= ln 2 / 2; `HIGH` has trailing zeros, so that n * HIGH is exact.
    const HIGH: f64 = 6.931_471_803_691_238e-1;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    let n = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * HIGH) - n * LOW;
    let series = TAYLOR.iter().rfold(0.0, |sum, term| sum * r + term);
    // n >= -1010, so the scale is a normal number.
    series * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// 1 / k! for k up to 13: at ln 2 / 2 the first term left out is below 2⁻⁵⁷.
const TAYLOR: [f64; 14] = {
    let mut terms = [1.0; 14];
    let mut k = 1;
    while k < terms.len() {
        terms[k] = terms[k - 1] / k as f64;
        k += 1;
    }
    terms
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_platform_to_the_last_places() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.003_498_7;
            let (ours, platform) = (exp(x), x.exp());
            assert!(
                (ours - platform).abs() <= 4e-16 * platform,
                "exp({x}) = {ours}, not {platform}"
            );
        }
    }

    #[test]
    fn its_ends_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-701.0), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }
}
