#!/usr/bin/python3
"""Trains the digits model and writes the files that the Go package embeds.

    /usr/bin/python3 train.py            writes ../weights.bin, ../heldout.bin, ../testdata/sklearn.csv
    /usr/bin/python3 train.py --check    trains again and compares with those files; exit 1 if a byte differs
    /usr/bin/python3 train.py --select   cross-validates the candidates on the training images only

Needs numpy and scikit-learn (Debian: python3-sklearn). The images come with scikit-learn; nothing is downloaded.
"""

import argparse
import hashlib
import os
import pathlib
import struct
import sys
import warnings

# One thread, so that sums are added in one order and the same machine gives the same bytes again.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 1998  # of the split and of the training
HELD_OUT = 719  # of 1,797 images; 1,078 are left to train on
MAX_PIXEL = 16
PARITY = 64  # held-out images whose probabilities go into testdata

# Chosen by --select, which never sees the held-out images.
CANDIDATES = [
    {"hidden": hidden, "alpha": alpha, "epochs": 120, "learning_rate": 1e-3}
    for hidden in [(128,), (256,), (512,)]
    for alpha in (1e-3, 3e-3, 1e-2)
]
CHOSEN = {"hidden": (512,), "alpha": 1e-2, "epochs": 120, "learning_rate": 1e-3}

DIGITS = pathlib.Path(__file__).resolve().parent.parent


def split():
    """The training images and the held-out ones, each as (pixels 0..16, labels)."""
    pixels, labels = load_digits(return_X_y=True)
    a, b, la, lb = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    return (a, la), (b, lb)


def shifted(pixels, labels):
    """The images, and each of them moved by one pixel in the eight directions."""
    images = pixels.reshape(-1, 8, 8)
    out = []
    for dy in (0, -1, 1):
        for dx in (0, -1, 1):
            moved = np.zeros_like(images)
            moved[:, max(dy, 0) : 8 + min(dy, 0), max(dx, 0) : 8 + min(dx, 0)] = images[
                :, max(-dy, 0) : 8 + min(-dy, 0), max(-dx, 0) : 8 + min(-dx, 0)
            ]
            out.append(moved)
    return np.concatenate(out).reshape(-1, 64), np.tile(labels, len(out))


def train(pixels, labels, hidden, alpha, epochs, learning_rate):
    """An MLP with ReLU and float32 weights; it takes pixels from 0 to 1."""
    model = MLPClassifier(
        hidden_layer_sizes=hidden,
        activation="relu",
        solver="adam",
        alpha=alpha,
        batch_size=64,
        learning_rate_init=learning_rate,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=epochs,  # always all epochs
        random_state=SEED,
    )
    pixels, labels = shifted(pixels, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is part of the choice
        model.fit((pixels / MAX_PIXEL).astype(np.float32), labels)
    return model


def select():
    """Prints the accuracy of each candidate in 5-fold cross-validation on the training images."""
    (pixels, labels), _ = split()
    for candidate in CANDIDATES:
        scores = []
        folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
        for fit, validate in folds.split(pixels, labels):
            model = train(pixels[fit], labels[fit], **candidate)
            scores.append(model.score((pixels[validate] / MAX_PIXEL).astype(np.float32), labels[validate]))
        print(f"{np.mean(scores):.4f}  {candidate}", flush=True)


def weights_file(model):
    """DIGITSW1, the layer sizes, then weights (input-major) and biases of each layer, little-endian."""
    sizes = [model.coefs_[0].shape[0]] + [w.shape[1] for w in model.coefs_]
    out = b"DIGITSW1" + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}I", *sizes)
    for i, (weights, biases) in enumerate(zip(model.coefs_, model.intercepts_)):
        if weights.dtype != np.float32:
            raise SystemExit(f"layer {i} has {weights.dtype} weights: need a scikit-learn that trains in float32")
        if i == 0:
            # The Go side takes pixels from 0 to 16. A division by a power of two is exact.
            weights = weights / np.float32(MAX_PIXEL)
        out += weights.astype("<f4").tobytes(order="C") + biases.astype("<f4").tobytes()
    return out


def heldout_file(pixels, labels):
    """DIGITSH1, the number of images, then for each its 64 pixels and its label, one byte each."""
    records = np.hstack([pixels, labels.reshape(-1, 1)]).astype(np.uint8)
    return b"DIGITSH1" + struct.pack("<I", len(labels)) + records.tobytes()


def parity_file(model, pixels):
    """What scikit-learn itself answers for the first held-out images."""
    probabilities = model.predict_proba((pixels[:PARITY] / MAX_PIXEL).astype(np.float32))
    lines = ["image," + ",".join(f"p{c}" for c in range(10))]
    for i, row in enumerate(probabilities):
        lines.append(f"{i}," + ",".join(f"{p:.9g}" for p in row))
    return ("\n".join(lines) + "\n").encode()


def main():
    args = argparse.ArgumentParser(description="Trains the digits model.")
    args.add_argument("--check", action="store_true", help="train again and compare with the committed files")
    args.add_argument("--select", action="store_true", help="cross-validate the candidates")
    args = args.parse_args()
    if args.select:
        return select()

    (pixels, labels), (held_pixels, held_labels) = split()
    model = train(pixels, labels, **CHOSEN)
    score = model.score((held_pixels / MAX_PIXEL).astype(np.float32), held_labels)
    print(f"{len(labels)} images to train on, {len(held_labels)} held out")
    print(f"accuracy on the held-out images: {score:.4f} ({round(score * len(held_labels))} of {len(held_labels)})")

    files = {
        DIGITS / "weights.bin": weights_file(model),
        DIGITS / "heldout.bin": heldout_file(held_pixels, held_labels),
        DIGITS / "testdata" / "sklearn.csv": parity_file(model, held_pixels),
    }
    differ = False
    for path, content in files.items():
        verdict = "written"
        if args.check:
            same = path.exists() and path.read_bytes() == content
            differ = differ or not same
            verdict = "same" if same else "DIFFERS"
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {path.relative_to(DIGITS)}  {len(content)} bytes  {verdict}")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
