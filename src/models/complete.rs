//! Whether the files of a model hold exactly what its networks need.

use super::folder::{Component, ModelFolder};
use super::graphs::{self, UnetSize};
use crate::graph::Graph;
use crate::weights::WeightsReport;
use crate::{DType, Error, Result};

impl ModelFolder {
    /// Compares every tensor of every component with what the networks need, without loading any. Fails with one report of all that
    /// is missing, misshapen or unused; parts of larger checkpoints that are known to be of no use here may stay unused.
    pub fn check_weights(&self) -> Result<()> {
        let mut all = WeightsReport { label: self.name(), ..WeightsReport::default() };
        for component in self.components() {
            let graphs = self.graphs_of(component)?;
            let checked = self.weights(component)?.check(&graphs.iter().collect::<Vec<_>>(), superfluous(component));
            match checked {
                Err(Error::Weights(report)) => add(&mut all, component, *report),
                other => other?,
            }
        }
        if all.is_empty() { Ok(()) } else { Err(Error::Weights(Box::new(all))) }
    }

    /// Graphs that together use every parameter of a component, at the smallest sizes.
    fn graphs_of(&self, component: Component) -> Result<Vec<Graph>> {
        let dtype = DType::F32;
        Ok(match component {
            Component::TextEncoder => vec![graphs::text(&self.text_config()?, dtype, 1, None)?],
            Component::Unet => {
                let size = UnetSize { batch: 1, height: 8, width: 8, tokens: 1 };
                vec![graphs::unet(&self.unet_config()?, dtype, size)?]
            }
            Component::Vae => {
                let config = self.vae_config()?;
                let side = config.factor();
                vec![graphs::vae_encode(&config, dtype, 1, side, side)?, graphs::vae_decode(&config, dtype, 1, 1, 1)?]
            }
            Component::FaceEncoder => vec![graphs::face_encoder(&self.face_config()?, dtype, 1)?],
            Component::Projector => vec![graphs::projector(&self.projector_config()?, 1)?],
            Component::ImageEncoder => vec![graphs::image_features(&self.image_config()?, dtype, 1)?],
        })
    }
}

/// Beginnings of names that published files hold beyond what the engine uses: other towers, classifiers, poolers.
fn superfluous(component: Component) -> &'static [&'static str] {
    match component {
        Component::TextEncoder => &["text_projection.", "vision_model.", "visual_projection.", "logit_scale"],
        Component::ImageEncoder => &["text_projection.", "text_model.", "logit_scale"],
        Component::FaceEncoder => &["head.", "fc_norm.", "classifier.", "pooler.", "vit.pooler."],
        Component::Unet | Component::Vae | Component::Projector => &[],
    }
}

/// Adds a component's report, with the component before every name.
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
