"""Trains the autoencoder on 96-pixel crops:  python train_vae.py DATA_DIR CKPT_DIR --minutes 30

Its schedule follows the clock, so that it ends on time on a machine of any speed; started again, it goes on.
With --decoder-only the encoder (and so every latent) stays as it is and the decoder goes on, on whole pictures.
"""
import argparse
import time

import torch
from diffusers import AutoencoderKL

import common
import dataset

CONFIG = dict(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
              block_out_channels=[16, 32, 80, 128], layers_per_block=1, act_fn="silu", latent_channels=4, norm_num_groups=16, sample_size=128)
KL = 5e-5


def build():
    torch.manual_seed(11)
    model = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.quant_conv.bias[4:] -= 6  # little sampling noise at first: starting at deviation 1 wastes the first thousand steps
    return model


def face_weight():
    """More weight where eyes, nose and mouth are drawn."""
    w = torch.ones(1, 1, 128, 128)
    w[..., 50:116, 38:90] = 2.0
    return w / w.mean()


def batches(data, people, size, crop, seed, sharp=1.0):
    """Crops in [-1, 1] with the weights of their pixels."""
    g, weight = torch.Generator().manual_seed(seed), face_weight() * sharp
    while True:
        who = torch.randint(0, people, (size,), generator=g)
        what = torch.randint(0, len(dataset.VARIANTS), (size,), generator=g)
        at = torch.randint(0, (128 - crop) // 8 + 1, (size, 2), generator=g) * 8
        x, w = [], []
        for p, v, (i, j) in zip(who.tolist(), what.tolist(), at.tolist()):
            x.append(torch.from_numpy(data[p, v, i:i + crop, j:j + crop].copy()))
            w.append(weight[0, :, i:i + crop, j:j + crop])
        x = torch.stack(x).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        yield x.contiguous(memory_format=torch.channels_last), torch.stack(w)


def loss_of(model, x, w, decoder_only):
    if decoder_only:
        with torch.no_grad():
            post = model.encode(x).latent_dist
    else:
        post = model.encode(x).latent_dist
    mean, std = post.mean.float(), post.std.float()
    y = model.decode(mean + std * torch.randn_like(mean)).sample.float()
    d = y - x
    pixel = (d.abs() * w).mean()
    edge = ((d[..., 1:] - d[..., :-1]).abs() * w[..., 1:]).mean() + ((d[..., 1:, :] - d[..., :-1, :]).abs() * w[..., 1:, :]).mean()
    kl = 0.5 * (mean ** 2 + std ** 2 - 1 - 2 * std.log()).mean()
    mse = (d ** 2).mean()
    return pixel + 0.5 * edge + 0.5 * mse + (0 if decoder_only else KL * kl), mse


@torch.no_grad()
def psnr(model, data, people):
    """Mean PSNR over whole pictures of unseen people, and the latents' deviation."""
    model.eval()
    x = torch.from_numpy(data[people.start:people.start + 6].reshape(-1, 128, 128, 3).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        z = model.encode(x).latent_dist.mean
        y = model.decode(z).sample.float().clamp(-1, 1)
    model.train()
    return float((10 * torch.log10(4 / ((y - x) ** 2).mean((1, 2, 3)))).mean()), float(z.float().std()), y


def work(rank, a):
    data, model, workers = dataset.images(a.data), build(), a.workers
    params = [p for n, p in model.named_parameters() if not a.decoder_only or n.startswith(("decoder", "post_quant"))]
    opt, average = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-4), common.Average(params, 400)
    path, log = f"{a.ckpt}/vae{'_decoder' if a.decoder_only else ''}.pt", common.Log(f"{a.ckpt}/vae.jsonl")
    step, spent = 0, 0.0
    state = common.load(path)
    if state:
        model.load_state_dict(state["model"]), opt.load_state_dict(state["opt"]), average.load(state["average"])
        step, spent = state["step"], state["spent"]
    elif a.decoder_only:
        model.load_state_dict(common.load(f"{a.ckpt}/vae.pt")["averaged"])
        average = common.Average(params, 400)
    torch.manual_seed(1000 + 10 * step + rank)
    run, first = torch.compile(loss_of) if a.compile else loss_of, step
    stream = batches(data, dataset.TRAIN.stop, a.batch // workers, 128 if a.decoder_only else 96, 1000 + 10 * step + rank, a.sharp)
    last, kept, total = time.time(), time.time(), a.minutes * 60
    while spent < total:
        for group in opt.param_groups:
            group["lr"] = common.cosine(spent, total, a.lr, warm=0.03 * total)
        x, w = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            loss, mse = run(model, x, w, a.decoder_only)
        opt.zero_grad()
        loss.backward()
        now = time.time()
        elapsed = min(now - last, 20) if step > first + 2 else 0.0  # compiling is not training
        spent, late = common.share(params, rank, workers, spent + elapsed, float(now - kept > 180))
        last = now
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        average.update()
        step += 1
        if rank == 0 and step % 100 == 0:
            log(part="vae", step=step, spent=round(spent), loss=float(loss.detach()), mse=float(mse.detach()))
        if late or spent >= total:
            kept = time.time()
            if rank == 0:
                keep(model, opt, average, path, log, data, step, spent)


def keep(model, opt, average, path, log, data, step, spent):
    """Saves the checkpoint and says how good the averaged weights are."""
    average.swap()
    quality, deviation, _ = psnr(model, data, dataset.VALIDATION)
    averaged = {k: v.clone() for k, v in model.state_dict().items()}
    average.swap()
    common.save(path, model=model.state_dict(), averaged=averaged, opt=opt.state_dict(), average=average.state(), step=step, spent=spent)
    log(part="vae", step=step, psnr=quality, latent_std=deviation)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--minutes", type=float, default=30)
    a.add_argument("--batch", type=int, default=8)
    a.add_argument("--lr", type=float, default=1.5e-3)
    a.add_argument("--sharp", type=float, default=1.0, help="weight of the absolute and edge errors; small at first, or colours come late")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--decoder-only", action="store_true")
    a.add_argument("--compile", action="store_true")
    common.launch(work, a.parse_args())


if __name__ == "__main__":
    main()
