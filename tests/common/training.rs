//! Steps of training at full size, for what they lower to: the loss of DreamIdentity, its gradients, the optimizer.

use dreamid_engine::DType;
use dreamid_engine::graph::{Builder, Graph, ParamSpec, Value, grad};
use dreamid_engine::models::clip_text::{self, Injection};
use dreamid_engine::models::unet::{self, Conditioning, Context, Time};
use dreamid_engine::models::{Component, ModelFolder, projector, vit};
use dreamid_engine::ops::{Activation, AdamW, Add, AddNoise, Mse, Noise, NormLoss, Scale};

/// What a step changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trained {
    /// The projector, from stored face features: the paper's training.
    Projector,
    /// Every weight, the face encoder's, the text encoder's and the UNet's too.
    Everything,
}

/// Photographs or their features, latents and prompts in; the next weights out. Networks that are not trained are frozen, not left out.
pub(crate) fn step(model: &ModelFolder, dtype: DType, batch: usize, trained: Trained) -> Graph {
    let mut graph = Graph::new();
    let b = &mut Builder::new(&mut graph, dtype);
    let features = features(b, model, batch, trained);
    let words = projector::projector(&mut b.scope(Component::Projector), &model.projector_config().unwrap(), features).unwrap();
    let denoising = denoising_loss(b, model, words);
    let length = b.op(NormLoss, &[Some(words)]).unwrap();
    let length = b.op(Scale::by(0.01, DType::F32), &[Some(length)]).unwrap();
    let loss = b.op(Add { act: Activation::None }, &[Some(denoising), Some(length)]).unwrap();
    b.output("loss", loss).unwrap();
    let all = trained == Trained::Everything;
    let changes = |spec: &ParamSpec| all || spec.names[0].starts_with("projector.");
    let params: Vec<Value> = graph.params().filter(|(spec, _)| changes(spec)).map(|(_, value)| value).collect();
    let gradients = grad(&mut graph, loss, &params).unwrap();
    for (i, (&param, &gradient)) in params.iter().zip(&gradients).enumerate() {
        update(&mut graph, i, param, gradient);
    }
    graph
}

fn features(b: &mut Builder<'_>, model: &ModelFolder, batch: usize, trained: Trained) -> Value {
    let config = model.face_config().unwrap();
    match trained {
        Trained::Projector => b.input("features", b.dtype(), [batch, config.feature_size()]),
        Trained::Everything => {
            let image = b.input("image", b.dtype(), [batch, config.image_size, config.image_size, config.num_channels]);
            vit::vit(&mut b.scope(Component::FaceEncoder), &config, image).unwrap().joined
        }
    }
}

/// [`dreamid_engine::models::gradients::denoising_loss`] of words that are computed, with noise drawn on the device.
fn denoising_loss(b: &mut Builder<'_>, model: &ModelFolder, words: Value) -> Value {
    let (text, config) = (model.text_config().unwrap(), model.unet_config().unwrap());
    let [batch, k, _] = *b.shape(words) else { panic!("words are [B,k,H]") };
    let ids = b.input("input_ids", DType::I32, [batch, text.max_position_embeddings]);
    let injection = Injection { slots: b.input("positions", DType::I32, [batch, k]), embeds: words };
    let context = clip_text::clip_text(&mut b.scope(Component::TextEncoder), &text, ids, Some(injection)).unwrap();
    let latents = b.input("latents", DType::F32, [batch, 64, 64, config.in_channels]);
    let seeds = b.input("seeds", DType::I32, [batch, 2]);
    let noise = b.op(Noise { size: [64, 64, config.in_channels] }, &[Some(seeds)]).unwrap();
    let shares = b.input("coefficients", DType::F32, [batch, 2]);
    let noisy = b.op(AddNoise { dtype: b.dtype() }, &[Some(latents), Some(noise), Some(shares)]).unwrap();
    let timesteps = b.input("timesteps", DType::F32, [batch]);
    let predicted = {
        let b = &mut b.scope(Component::Unet);
        let time = Time::Embedding(unet::embed_time(b, &config, timesteps).unwrap());
        unet::unet(b, &config, noisy, &Conditioning { context: Context::Hidden(context), time }).unwrap()
    };
    b.op(Mse, &[Some(predicted), Some(noise)]).unwrap()
}

fn update(graph: &mut Graph, index: usize, param: Value, gradient: Value) {
    let (ty, b) = (graph.ty(param), &mut Builder::new(graph, DType::F32));
    let state = ["master", "first", "second"].map(|name| b.input(&format!("{name} {index}"), DType::F32, ty.shape));
    let rates = b.input(&format!("rates {index}"), DType::F32, [4]);
    let optimizer = AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, dtype: ty.dtype };
    let next = b.op_many(optimizer, &[state[0], gradient, state[1], state[2], rates].map(Some)).unwrap();
    for (name, value) in ["master", "first", "second", "weight"].into_iter().zip(next) {
        b.output(&format!("next {name} {index}"), value).unwrap();
    }
}
