//! Whether the files of a component hold what its configuration says: every tensor, of the right shape, and no other.

use super::graphs::{self, UnetSize};
use super::{Component, ModelFolder};
use crate::graph::Graph;
use crate::weights::WeightsReport;
use crate::{DType, Error, Result};

impl ModelFolder {
    /// Fails with one report of every missing, misshapen and unused tensor of a component. Reads names and shapes, not the weights.
    ///
    /// Parts that whole CLIP models and classifiers carry along (`text_projection`, a classification head) may be there unused.
    pub fn check_weights(&self, component: Component) -> Result<()> {
        let graphs = self.smallest_graphs(component)?;
        self.weights(component)?.check(&graphs.iter().collect::<Vec<_>>(), carried_along(component))
    }

    /// [`ModelFolder::check_weights`] of all components the model has, in one report that says the component before every name.
    pub fn check_all_weights(&self) -> Result<()> {
        let mut all = WeightsReport { label: self.name(), ..WeightsReport::default() };
        for component in self.components() {
            match self.check_weights(component) {
                Err(Error::Weights(report)) => add(&mut all, component, *report),
                other => other?,
            }
        }
        if all.is_empty() { Ok(()) } else { Err(Error::Weights(Box::new(all))) }
    }

    /// Graphs that together use every weight of a component, at sizes that cost little to build.
    fn smallest_graphs(&self, component: Component) -> Result<Vec<Graph>> {
        let dtype = DType::F32;
        Ok(match component {
            Component::TextEncoder => vec![graphs::text(&self.text_config()?, dtype, 1, None)?],
            Component::Unet => {
                let config = self.unet_config()?;
                // any size will do that no level makes smaller than a pixel
                let side = 1 << config.block_out_channels.len();
                vec![graphs::unet(&config, dtype, UnetSize { batch: 1, height: side, width: side, tokens: 77 })?]
            }
            Component::Vae => {
                let config = self.vae_config()?;
                let side = 2 * config.factor();
                vec![graphs::vae_encode(&config, dtype, 1, side, side)?, graphs::vae_decode(&config, dtype, 1, 2, 2)?]
            }
            Component::FaceEncoder => vec![graphs::face_encoder(&self.face_config()?, dtype, 1)?],
            Component::Projector => vec![graphs::projector(&self.projector_config()?, dtype, 1)?],
            Component::ImageEncoder => vec![graphs::image_features(&self.image_config()?, dtype, 1)?],
        })
    }
}

fn carried_along(component: Component) -> &'static [&'static str] {
    match component {
        Component::TextEncoder => &["text_projection.weight", "logit_scale", "vision_model.", "visual_projection.weight"],
        Component::ImageEncoder => &["text_projection.weight", "logit_scale", "text_model."],
        Component::FaceEncoder => &["head.weight", "head.bias", "classifier.", "pooler.", "fc_norm."],
        Component::Unet | Component::Vae | Component::Projector => &[],
    }
}

fn add(all: &mut WeightsReport, component: Component, mut report: WeightsReport) {
    let prefix = |name: &mut String| name.insert_str(0, &format!("{component}: "));
    report.missing.iter_mut().for_each(|m| prefix(&mut m.name));
    report.misshapen.iter_mut().for_each(|m| prefix(&mut m.name));
    report.unused.iter_mut().for_each(prefix);
    all.missing.extend(report.missing);
    all.misshapen.extend(report.misshapen);
    all.unused.extend(report.unused);
    all.advice.extend(report.advice.into_iter().map(|a| format!("{component}: {a}")));
}
