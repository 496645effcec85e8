//! How many parameters a model has, and how many a token touches.
//!
//! Both are sums over the table in [`tensors`], never formulas of their own. Rows
//! are counted once per layer and expert rather than listed, so that counting a config that only
//! pretends to be a model costs nothing: it is how such a config is found out.

use super::config::{Config, LayerKind, Mlp, Moe};
use super::tensors::{self, Experts, Role, Tensor};

/// Parameters of each part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The text model, its embedding and, unless tied, its head.
    pub text: u128,
    pub vision: u128,
    pub mtp: u128,
    /// Weights of the text model that one token reads, the embedding table left out (a token
    /// looks up one row of it): all of a dense model; of a mixture, the router, the shared expert
    /// and the chosen experts of each layer. The head counts, also where it is the embedding
    /// matrix.
    pub active: u128,
}

impl Parameters {
    pub fn total(&self) -> u128 {
        self.text + self.vision + self.mtp
    }
}

/// Count the parameters of a model.
pub fn parameters(config: &Config) -> Parameters {
    let top = tensors::top(config);
    let idle = if config.tied { None } else { Some(Role::EmbedTokens) };
    let active_top = top.iter().filter(|t| Some(t.role) != idle);

    let (mut text, mut active) = (sum(&top), sum(active_top));
    for kind in [LayerKind::DeltaNet, LayerKind::Attention] {
        let layers = config.layers.iter().filter(|&&k| k == kind).count() as u128;
        let rows = tensors::layer_pattern(config, kind, Experts::Apart);
        text += layers * layer(config, &rows, |moe| moe.num_experts);
        active += layers * layer(config, &rows, |moe| moe.num_experts_per_tok);
    }
    Parameters { text, vision: sum(&tensors::vision(config)), mtp: mtp(config), active }
}

fn mtp(config: &Config) -> u128 {
    let around = tensors::mtp(&Config { mtp_layers: config.mtp_layers.min(1), ..config.clone() });
    let rows = tensors::mtp_pattern(config, Experts::Apart);
    let one = layer(config, &rows, |moe| moe.num_experts);
    match u128::from(config.mtp_layers) {
        0 => 0,
        n => sum(&around) + (n - 1) * one,
    }
}

/// Parameters of a layer, of which `experts` says how many experts to count.
fn layer(config: &Config, rows: &[Tensor], experts: impl Fn(Moe) -> u32) -> u128 {
    let copies = |row: &Tensor| match config.mlp {
        Mlp::Moe(moe) if row.role.is_of_one_expert() => experts(moe),
        _ => 1,
    };
    rows.iter().map(|row| u128::from(copies(row)) * u128::from(row.elements())).sum()
}

fn sum<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> u128 {
    tensors.into_iter().map(|t| u128::from(t.elements())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::config::published;

    /// Spec section 1: model; parameters of text with head, vision, MTP, total; tensors of each.
    #[rustfmt::skip]
    const TABLE: [(&str, [u128; 4], [usize; 3]); 9] = [
        ("Qwen3.5-397B-A17B", [396_346_350_336, 456_010_480, 6_595_568_128, 403_397_928_944], [1038, 333, 1553]),
        ("Qwen3.5-122B-A10B", [122_111_526_912, 451_290_864, 2_523_679_232, 125_086_497_008], [831, 333, 785]),
        ("Qwen3.5-35B-A3B", [34_660_610_688, 446_571_248, 844_640_768, 35_951_822_704], [693, 333, 785]),
        ("Qwen-AgentWorld-35B-A3B", [34_660_610_688, 446_571_248, 844_640_768, 35_951_822_704], [693, 333, 785]),
        ("Qwen3.5-27B", [26_895_998_464, 460_730_096, 424_699_392, 27_781_427_952], [851, 333, 15]),
        ("Qwen3.5-9B", [8_953_803_264, 456_010_480, 243_290_624, 9_653_104_368], [427, 333, 15]),
        ("Qwen3.5-4B", [4_205_751_296, 333_514_240, 120_599_552, 4_659_865_088], [426, 297, 15]),
        ("Qwen3.5-2B", [1_881_825_088, 331_416_576, 60_828_160, 2_274_069_824], [320, 297, 15]),
        ("Qwen3.5-0.8B", [752_393_024, 100_592_896, 20_452_864, 873_438_784], [320, 153, 15]),
    ];

    #[test]
    fn totals_of_the_family_are_exact() {
        for (model, [text, vision, mtp, total], _) in TABLE {
            let count = parameters(&published(model));
            assert_eq!((count.text, count.vision, count.mtp), (text, vision, mtp), "{model}");
            assert_eq!(count.total(), total, "{model}");
        }
    }

    #[test]
    fn the_listed_tensors_of_the_family_are_as_many_and_hold_as_much() {
        for (model, [text, vision, mtp, _], tensors) in TABLE {
            let config = published(model);
            let parts = [tensors::text(&config), tensors::vision(&config), tensors::mtp(&config)];
            assert_eq!(parts.each_ref().map(Vec::len), tensors, "{model}");
            assert_eq!(parts.each_ref().map(sum), [text, vision, mtp], "{model}");
        }
    }

    #[test]
    fn a_token_reads_what_the_published_figures_say() {
        for (model, billions) in [
            ("Qwen3.5-397B-A17B", "16.33"),
            ("Qwen3.5-122B-A10B", "9.01"),
            ("Qwen3.5-35B-A3B", "2.95"),
        ] {
            let active = parameters(&published(model)).active;
            assert_eq!(format!("{:.2}", active as f64 / 1e9), billions, "{model}");
        }
    }

    #[test]
    fn a_dense_token_reads_all_but_an_embedding_that_is_not_the_head() {
        let tied = parameters(&published("Qwen3.5-0.8B"));
        assert_eq!(tied.active, tied.text);
        let untied = parameters(&published("Qwen3.5-9B"));
        assert_eq!(untied.active, untied.text - 248_320 * 4096);
    }

    #[test]
    fn further_prediction_layers_are_counted_as_they_are_listed() {
        for layers in [0, 1, 3] {
            let config = Config { mtp_layers: layers, ..published("Qwen3.5-35B-A3B") };
            assert_eq!(parameters(&config).mtp, sum(&tensors::mtp(&config)), "{layers}");
        }
    }
}
