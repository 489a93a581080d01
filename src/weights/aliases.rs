//! Other spellings of tensor names, as libraries and their versions have them.

/// Names under which `name` may be stored, the likeliest first. Several names in one entry are stacked along the first axis.
pub(crate) fn spellings(name: &str) -> Vec<Vec<String>> {
    let mut all = vec![vec![name.to_owned()]];
    all.extend(old_vae_attention(name).map(|n| vec![n]));
    all.extend(hugging_face_vit(name));
    let plain = all.clone();
    for prefix in PREFIXES {
        all.extend(plain.iter().map(|names| names.iter().map(|n| format!("{prefix}{n}")).collect()));
        all.extend(plain.iter().filter_map(|names| names.iter().map(|n| n.strip_prefix(prefix).map(str::to_owned)).collect()));
    }
    all
}

/// Whether a tensor may stay unused: buffers that old versions saved, and what the caller names.
pub(crate) fn ignorable(name: &str, ignore: &[&str]) -> bool {
    name.ends_with("position_ids")
        || name.ends_with("num_batches_tracked")
        || ignore.iter().any(|i| name.starts_with(i) || name.ends_with(i))
}

/// Wrappers that add a name in front: data-parallel training, whole CLIP models, ViT classes.
const PREFIXES: [&str; 5] = ["text_model.", "module.", "model.", "vit.", "backbone."];

/// The first versions of diffusers named the attention of the VAE otherwise.
fn old_vae_attention(name: &str) -> Option<String> {
    const OLD: [(&str, &str); 4] = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
    OLD.iter().find(|(new, _)| name.contains("mid_block.attentions.") && name.contains(new)).map(|(new, old)| name.replace(new, old))
}

/// transformers' names of the ViT that timm names `blocks.N...`; its q, k and v are apart.
fn hugging_face_vit(name: &str) -> Option<Vec<String>> {
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let one = |stem: String| Some(vec![if kind.is_empty() { stem } else { format!("{stem}.{kind}") }]);
    match stem {
        "patch_embed.proj" => return one("embeddings.patch_embeddings.projection".into()),
        "norm" => return one("layernorm".into()),
        _ if name == "cls_token" => return Some(vec!["embeddings.cls_token".into()]),
        _ if name == "pos_embed" => return Some(vec!["embeddings.position_embeddings".into()]),
        _ => {}
    }
    let (layer, part) = stem.strip_prefix("blocks.")?.split_once('.')?;
    let inside = |part: &str| one(format!("encoder.layer.{layer}.{part}"));
    match part {
        "norm1" => inside("layernorm_before"),
        "norm2" => inside("layernorm_after"),
        "attn.proj" => inside("attention.output.dense"),
        "mlp.fc1" => inside("intermediate.dense"),
        "mlp.fc2" => inside("output.dense"),
        "attn.qkv" => Some(["query", "key", "value"].map(|p| format!("encoder.layer.{layer}.attention.attention.{p}.{kind}")).to_vec()),
        _ => None,
    }
}
