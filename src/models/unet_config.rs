//! `unet/config.json` and the order of blocks that follows from it.

use super::blocks::Groups;
use super::config::{ConfigFile, LAYERS, PerLevel, SIDE, WIDTH, WORDS};
use crate::Result;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Most levels of a UNet.
const LEVELS: usize = 16;

/// Configuration of a UNet as diffusers writes it for `UNet2DConditionModel`. Absent keys mean what they mean there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// Channels of the latents; 8 for InstructPix2Pix.
    pub in_channels: usize,
    /// Channels of the predicted noise.
    pub out_channels: usize,
    /// Height and width of the latents that the model was trained on.
    pub sample_size: usize,
    /// Cosines before sines in the timestep's embedding.
    pub flip_sin_to_cos: bool,
    /// Subtracted in the exponent of the timestep's frequencies.
    pub freq_shift: f32,
    /// Levels on the way down.
    pub down_block_types: Vec<DownBlock>,
    /// Levels on the way up.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each level on the way down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub layers_per_block: PerLevel,
    /// Padding of the strided convolutions: 1 on all sides, or 0 for one row and column at the end.
    pub downsample_padding: usize,
    /// Groups of all group norms.
    pub norm_num_groups: usize,
    /// Epsilon of the group norms in residual blocks and before the output.
    pub norm_eps: f32,
    /// Width of the prompt's hidden states.
    pub cross_attention_dim: usize,
    /// Blocks of each transformer.
    pub transformer_layers_per_block: PerLevel,
    /// The NUMBER of heads of each level: diffusers misnamed it early and keeps the name for old files.
    pub attention_head_dim: PerLevel,
    /// The number of heads, in files that say so properly; wins over `attention_head_dim`.
    pub num_attention_heads: Option<PerLevel>,
    /// Width of the timestep's embedding; none: four times the first level's channels.
    pub time_embedding_dim: Option<usize>,
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum DownBlock {
    /// Residual blocks with transformers.
    #[serde(rename = "CrossAttnDownBlock2D")]
    CrossAttention,
    /// Residual blocks only.
    #[serde(rename = "DownBlock2D")]
    Plain,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum UpBlock {
    /// Residual blocks with transformers.
    #[serde(rename = "CrossAttnUpBlock2D")]
    CrossAttention,
    /// Residual blocks only.
    #[serde(rename = "UpBlock2D")]
    Plain,
}

impl Default for UnetConfig {
    fn default() -> Self {
        use {DownBlock as D, UpBlock as U};
        Self {
            in_channels: 4,
            out_channels: 4,
            sample_size: 64,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![D::CrossAttention, D::CrossAttention, D::CrossAttention, D::Plain],
            up_block_types: vec![U::Plain, U::CrossAttention, U::CrossAttention, U::CrossAttention],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::All(2),
            downsample_padding: 1,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            transformer_layers_per_block: PerLevel::All(1),
            attention_head_dim: PerLevel::All(8),
            num_attention_heads: None,
            time_embedding_dim: None,
        }
    }
}

/// One level: residual blocks of equal width, perhaps with transformers, perhaps with a change of size at the end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    pub(crate) path: String,
    pub(crate) channels: usize,
    pub(crate) resnets: usize,
    pub(crate) transformer: Option<Transformer>,
    pub(crate) resample: bool,
}

/// Heads and blocks of the transformers of a level.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transformer {
    pub(crate) heads: usize,
    pub(crate) depth: usize,
}

/// All levels in the order in which they run.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) down: Vec<Level>,
    pub(crate) middle: Level,
    pub(crate) up: Vec<Level>,
}

impl UnetConfig {
    /// The UNet of Stable Diffusion 2.1.
    pub fn sd21() -> Self {
        Self { cross_attention_dim: 1024, attention_head_dim: PerLevel::Each(vec![5, 10, 20, 20]), ..Self::default() }
    }

    /// Reads the text of `file`. Options that would change the network and are not implemented are refused by name.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?;
        json.class("_class_name", &["UNet2DConditionModel"])?;
        json.class("mid_block_type", &["UNetMidBlock2DCrossAttn"])?;
        json.class("act_fn", &["silu", "swish"])?;
        json.only(&refused_options())?;
        let config: Self = json.read()?;
        config.check(&json)?;
        Ok(config)
    }

    /// Width of the timestep's embedding.
    pub fn time_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    /// Place (below the root of the file) and channels of every cross-attention, in the order in which they run.
    pub fn cross_attentions(&self) -> Vec<(String, usize)> {
        let inside = |level: &Level, i: usize| {
            let depth = level.transformer.as_ref().map_or(0, |t| t.depth);
            (0..depth).map(|d| (format!("{}.attentions.{i}.transformer_blocks.{d}.attn2", level.path), level.channels)).collect::<Vec<_>>()
        };
        let layout = self.layout();
        layout.levels().flat_map(|level| (0..layout.transformers(level)).flat_map(move |i| inside(level, i))).collect()
    }

    /// Place (below the root of the file) and channels of every residual block, in the order in which they run.
    pub fn residual_blocks(&self) -> Vec<(String, usize)> {
        let layout = self.layout();
        layout.levels().flat_map(|level| (0..level.resnets).map(|i| (format!("{}.resnets.{i}", level.path), level.channels))).collect()
    }

    pub(crate) fn norm(&self) -> Groups {
        Groups { groups: self.norm_num_groups, eps: self.norm_eps }
    }

    pub(crate) fn downsample_pads(&self) -> [usize; 4] {
        if self.downsample_padding == 0 { [0, 0, 1, 1] } else { [1; 4] }
    }

    pub(crate) fn layout(&self) -> Layout {
        let n = self.block_out_channels.len();
        let (layers, heads, depth) =
            (self.expanded(&self.layers_per_block), self.expanded(self.heads()), self.expanded(&self.transformer_layers_per_block));
        let level = |side: &str, i: usize, k: usize, resnets: usize, attends: bool| Level {
            path: format!("{side}_blocks.{i}"),
            channels: self.block_out_channels[k],
            resnets,
            transformer: attends.then(|| Transformer { heads: heads[k], depth: depth[k] }),
            resample: i + 1 < n,
        };
        let down = (0..n).map(|i| level("down", i, i, layers[i], self.down_block_types[i] == DownBlock::CrossAttention)).collect();
        let up =
            (0..n).map(|i| level("up", i, n - 1 - i, layers[n - 1 - i] + 1, self.up_block_types[i] == UpBlock::CrossAttention)).collect();
        let middle = Level { path: "mid_block".into(), resample: false, ..level("mid", 0, n - 1, 2, true) };
        Layout { down, middle, up }
    }

    fn heads(&self) -> &PerLevel {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim)
    }

    /// One number for each level; a list of another length has been refused by [`UnetConfig::check`].
    fn expanded(&self, values: &PerLevel) -> Vec<usize> {
        let levels = self.block_out_channels.len();
        values.expand(levels).unwrap_or_else(|| vec![1; levels])
    }

    fn check(&self, json: &ConfigFile<'_>) -> Result<()> {
        let levels = self.block_out_channels.len();
        json.ensure((1..=LEVELS).contains(&levels), || format!("block_out_channels has {levels} levels; supported: 1 to {LEVELS}"))?;
        json.sizes(&[
            ("in_channels", self.in_channels, WIDTH),
            ("out_channels", self.out_channels, WIDTH),
            ("sample_size", self.sample_size, SIDE),
            ("cross_attention_dim", self.cross_attention_dim, WIDTH),
        ])?;
        let counts = [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())];
        for (key, count) in counts {
            json.ensure(count == levels, || format!("{key} has {count} entries, block_out_channels {levels}"))?;
        }
        let lists = [
            ("layers_per_block", &self.layers_per_block),
            ("attention_head_dim", self.heads()),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
        ];
        for (key, list) in lists {
            let good = list.expand(levels).is_some_and(|l| l.iter().all(|n| (1..=LAYERS).contains(n)));
            json.ensure(good, || format!("{key} needs one number from 1 to {LAYERS}, or one for each of {levels} levels"))?;
        }
        let groups = self.norm_num_groups;
        for (&channels, heads) in self.block_out_channels.iter().zip(self.expanded(self.heads())) {
            json.sizes(&[("block_out_channels", channels, WIDTH)])?;
            json.ensure(groups > 0 && channels.is_multiple_of(groups), || {
                format!("{channels} channels do not split into norm_num_groups {groups}")
            })?;
            json.ensure(channels.is_multiple_of(heads), || {
                format!("{channels} channels do not split into {heads} heads (attention_head_dim is their number)")
            })?;
        }
        json.sizes(&[("time_embedding_dim", self.time_width(), WORDS)])?;
        json.ensure(self.block_out_channels[0].is_multiple_of(2), || {
            "the first of block_out_channels is odd: the timestep's waves come in pairs".into()
        })?;
        json.ensure(self.downsample_padding <= 1, || format!("downsample_padding is {}; supported: 0 and 1", self.downsample_padding))
    }
}

impl Layout {
    fn levels(&self) -> impl Iterator<Item = &Level> {
        self.down.iter().chain(std::iter::once(&self.middle)).chain(&self.up)
    }

    /// Number of transformers of a level: one after each residual block, but a single one in the middle.
    fn transformers(&self, level: &Level) -> usize {
        if level.transformer.is_none() {
            0
        } else if *level == self.middle {
            1
        } else {
            level.resnets
        }
    }
}

/// Options of diffusers that change the network and that no Stable Diffusion 1.x or 2.x text-to-image model sets.
fn refused_options() -> Vec<(&'static str, Json)> {
    let absent = ["encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type", "addition_embed_type", "num_class_embeds"];
    let absent_too = ["time_embedding_act_fn", "timestep_post_act", "time_cond_proj_dim", "projection_class_embeddings_input_dim"];
    let last = ["mid_block_only_cross_attention", "cross_attention_norm", "reverse_transformer_layers_per_block"];
    let mut all: Vec<_> = absent.into_iter().chain(absent_too).chain(last).map(|key| (key, Json::Null)).collect();
    let fixed = ["center_input_sample", "only_cross_attention", "dual_cross_attention", "class_embeddings_concat", "resnet_skip_time_act"];
    all.extend(fixed.map(|key| (key, json!(false))));
    all.extend([
        ("mid_block_scale_factor", json!(1)),
        ("resnet_out_scale_factor", json!(1)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
    ]);
    all.extend([
        ("resnet_time_scale_shift", json!("default")),
        ("time_embedding_type", json!("positional")),
        ("attention_type", json!("default")),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sd21_has_16_cross_attentions_and_22_residual_blocks() {
        let config = UnetConfig::sd21();
        assert_eq!(config.cross_attentions().len(), 16);
        assert_eq!(config.residual_blocks().len(), 22);
        assert_eq!(config.cross_attentions()[6], ("mid_block.attentions.0.transformer_blocks.0.attn2".to_owned(), 1280));
    }

    #[test]
    fn unknown_blocks_and_options_are_refused_by_name() {
        let refuse = |text: &str, word: &str| {
            let e = UnetConfig::from_json("unet/config.json", text).unwrap_err().to_string();
            assert!(e.contains("unet/config.json") && e.contains(word), "{e}");
        };
        refuse(r#"{"_class_name": "UNet2DModel"}"#, "UNet2DModel");
        refuse(r#"{"down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]}"#, "AttnDownBlock2D");
        refuse(r#"{"addition_embed_type": "text_time"}"#, "addition_embed_type");
        refuse(r#"{"only_cross_attention": [true, false]}"#, "only_cross_attention");
        refuse(r#"{"attention_head_dim": [5, 10]}"#, "attention_head_dim");
        refuse(r#"{"attention_head_dim": 7}"#, "7 heads");
        refuse(r#"{"block_out_channels": []}"#, "block_out_channels");
        refuse(r#"{"norm_num_groups": 7}"#, "norm_num_groups");
    }

    #[test]
    fn absent_keys_mean_what_diffusers_means() {
        let config =
            UnetConfig::from_json("x", r#"{"cross_attention_dim": 768, "class_embed_type": null, "mid_block_scale_factor": 1.0}"#).unwrap();
        assert_eq!(config, UnetConfig { cross_attention_dim: 768, ..UnetConfig::default() });
    }
}
