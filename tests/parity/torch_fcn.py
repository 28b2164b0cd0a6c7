"""FCN and VGG16 once more, in PyTorch and written on their own: the other witness of the parity tests.

Layers, names and crops are those of the authors' published model files (voc-fcn32s, voc-fcn16s, voc-fcn8s and
voc-fcn8s-atonce, net.py). The crops stand here as numbers; tinyfcn derives its own. Nothing here is taken from tinyfcn.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# Padding of conv1_1, padding of fc6.
PADDING = {"paper": (100, 0), "same": (1, 3)}

# Where each crop starts. "paper": score_pool4 and score_pool3 are cropped to the upsampled scores. "same": the upsampled
# scores are cropped to those of the pooling layer. The last one is the crop to the image.
CROP = {
    "paper": {"fcn32s": (19,), "fcn16s": (5, 27), "fcn8s": (5, 9, 31)},
    "same": {"fcn32s": (16,), "fcn16s": (1, 8), "fcn8s": (1, 1, 4)},
}


class Trunk(nn.Module):
    """conv1_1 to conv5_3."""

    def __init__(self, width, first_padding, hidden=None):
        super().__init__()
        self.channels = [max(1, round(c * width)) for c in (64, 128, 256, 512, 4096)]
        self.channels[-1] = hidden or self.channels[-1]
        c1, c2, c3, c4, _ = self.channels
        self.conv1_1 = nn.Conv2d(3, c1, 3, padding=first_padding)
        self.conv1_2 = nn.Conv2d(c1, c1, 3, padding=1)
        self.conv2_1 = nn.Conv2d(c1, c2, 3, padding=1)
        self.conv2_2 = nn.Conv2d(c2, c2, 3, padding=1)
        self.conv3_1 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv3_2 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv3_3 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv4_1 = nn.Conv2d(c3, c4, 3, padding=1)
        self.conv4_2 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv4_3 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv5_1 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv5_2 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv5_3 = nn.Conv2d(c4, c4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.relu = nn.ReLU()

    def pools(self, x):
        relu = self.relu
        pool1 = self.pool(relu(self.conv1_2(relu(self.conv1_1(x)))))
        pool2 = self.pool(relu(self.conv2_2(relu(self.conv2_1(pool1)))))
        pool3 = self.pool(relu(self.conv3_3(relu(self.conv3_2(relu(self.conv3_1(pool2)))))))
        pool4 = self.pool(relu(self.conv4_3(relu(self.conv4_2(relu(self.conv4_1(pool3)))))))
        pool5 = self.pool(relu(self.conv5_3(relu(self.conv5_2(relu(self.conv5_1(pool4)))))))
        return pool3, pool4, pool5


class TorchVGG(Trunk):
    """The classifier, for images of 224x224; without dropout."""

    def __init__(self, classes, width):
        super().__init__(width, first_padding=1)
        *_, c5, hidden = self.channels
        self.fc6, self.fc7, self.fc8 = nn.Linear(49 * c5, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)

    def forward(self, x):
        x = self.pools(x)[-1].flatten(1)
        return self.fc8(self.relu(self.fc7(self.relu(self.fc6(x)))))


class TorchFCN(Trunk):
    """fcn32s, fcn16s, fcn8s or fcn8s-atonce, without dropout. `learn_upsampling`: "none", "skip" (all but the last), "all"."""

    def __init__(self, model, classes, width=1.0, padding="paper", learn_upsampling="none", hidden=None):
        first_padding, fc6_padding = PADDING[padding]
        super().__init__(width, first_padding, hidden)
        _, _, c3, c4, hidden = self.channels
        self.fc6 = nn.Conv2d(c4, hidden, 7, padding=fc6_padding)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score_fr = nn.Conv2d(hidden, classes, 1)
        self.scale_pool4, self.scale_pool3 = (0.01, 0.0001) if model == "fcn8s-atonce" else (1, 1)
        self.model, self.padding = model.removesuffix("-atonce"), padding
        self.crops = CROP[padding][self.model]
        if self.model == "fcn32s":
            self.upscore = nn.ConvTranspose2d(classes, classes, 64, 32, bias=False)
        else:
            self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
            self.score_pool4 = nn.Conv2d(c4, classes, 1)
        if self.model == "fcn16s":
            self.upscore16 = nn.ConvTranspose2d(classes, classes, 32, 16, bias=False)
        if self.model == "fcn8s":
            self.upscore_pool4 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
            self.score_pool3 = nn.Conv2d(c3, classes, 1)
            self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, 8, bias=False)
        last = {"fcn32s": "upscore", "fcn16s": "upscore16", "fcn8s": "upscore8"}[self.model]
        for name, layer in self.named_modules():
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.data = bilinear(classes, layer.kernel_size[0])
                layer.weight.requires_grad = learn_upsampling == "all" or (learn_upsampling == "skip" and name != last)

    def forward(self, x):
        pool3, pool4, pool5 = self.pools(x)
        h = self.relu(self.fc7(self.relu(self.fc6(pool5))))
        h = self.score_fr(h)
        if self.model == "fcn32s":
            h = self.upscore(h)
        else:
            h = self.fuse(self.score_pool4(pool4 * self.scale_pool4), self.upscore2(h), self.crops[0])
            if self.model == "fcn16s":
                h = self.upscore16(h)
            else:
                h = self.fuse(self.score_pool3(pool3 * self.scale_pool3), self.upscore_pool4(h), self.crops[1])
                h = self.upscore8(h)
        c = self.crops[-1]
        return h[:, :, c : c + x.shape[2], c : c + x.shape[3]]

    def fuse(self, skip, up, c):
        if self.padding == "paper":
            return skip[:, :, c : c + up.shape[2], c : c + up.shape[3]] + up
        return skip + up[:, :, c : c + skip.shape[2], c : c + skip.shape[3]]


class TorchAlexNet(nn.Module):
    """torchvision's AlexNet ("alexnet") or CaffeNet ("caffenet"), without dropout: the classifier, or with `padding` FCN-32s."""

    def __init__(self, model, classes, width=1.0, padding=None):
        super().__init__()
        caffe = model == "caffenet"
        c1, c2, c3, c4, c5, hidden = (
            2 * round(c * width / 2) for c in ((96, 256, 384, 384, 256, 4096) if caffe else (64, 192, 384, 256, 256, 4096))
        )
        groups = 2 if caffe else 1
        first = 100 if padding == "paper" else 0 if caffe else 2
        self.conv1 = nn.Conv2d(3, c1, 11, 4, padding=first)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=groups)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=groups)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0) if caffe else nn.Identity()
        self.padding = padding
        if padding is None:
            self.fc6, self.fc7, self.fc8 = nn.Linear(36 * c5, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)
        else:
            self.fc6 = nn.Conv2d(c5, hidden, 6, padding={"paper": 0, "same": 3}[padding])
            self.fc7, self.score_fr = nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, classes, 1)
            self.upscore = nn.ConvTranspose2d(classes, classes, 63, 32, bias=False)
            self.upscore.weight.data = bilinear(classes, 63)
            self.upscore.weight.requires_grad = False
            self.crop = 18 if padding == "paper" else 14 if caffe else 16

    def forward(self, x):
        relu = functional.relu
        height, width = x.shape[2:]

        def pool(x):
            return functional.max_pool2d(x, 3, 2, ceil_mode=True)

        x = self.norm(pool(relu(self.conv1(x))))
        x = self.norm(pool(relu(self.conv2(x))))
        x = pool(relu(self.conv5(relu(self.conv4(relu(self.conv3(x)))))))
        if self.padding is None:
            return self.fc8(relu(self.fc7(relu(self.fc6(x.flatten(1))))))
        x = self.upscore(self.score_fr(relu(self.fc7(relu(self.fc6(x))))))
        return x[:, :, self.crop : self.crop + height, self.crop : self.crop + width]


def bilinear(classes, size):
    """The published `upsample_filt`, from each class to itself."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    og = np.ogrid[:size, :size]
    filt = (1 - abs(og[0] - center) / factor) * (1 - abs(og[1] - center) / factor)
    weight = np.zeros((classes, classes, size, size))
    weight[range(classes), range(classes)] = filt
    return torch.tensor(weight, dtype=torch.get_default_dtype())


def with_params(module, params):
    """The module with (copies of) tinyfcn's arrays, by name, as its parameters, and their dtype.

    Upsampling layers that are fixed are no parameters of tinyfcn's: these stay as they are.
    """
    learned = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learned == set(params), f"parameters of one of the two only: {learned ^ set(params)}"
    values = {name: torch.tensor(value) for name, value in params.items()}
    module.to(next(iter(values.values())).dtype)
    _, unexpected = module.load_state_dict(values, strict=False)
    assert not unexpected
    return module


def loss_of(scores, labels, reduction="mean", class_weight=None):
    labels = torch.tensor(np.ascontiguousarray(labels), dtype=torch.long)
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=scores.dtype)
    return functional.cross_entropy(scores, labels, weight, ignore_index=255, reduction=reduction)


def optimiser_of(module, kind, lr, momentum, weight_decay, trunk_rate=1.0):
    """tinyfcn's SGD ("sgd") or Adam ("adam", whose first beta is `momentum`): biases learn at twice the rate, and do not decay.
    The convolutions learn at `trunk_rate` times the rate of the rest.

    At a constant rate, Caffe's momentum (v <- m v - lr g) takes the path of PyTorch's (v <- m v + g, w <- w - lr v). tinyfcn's
    Adam decays weights apart from the gradient, which PyTorch calls AdamW.
    """
    groups = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            rate = lr * (trunk_rate if name.startswith("conv") else 1)
            bias = name.endswith("bias")
            groups.append({"params": [p], "lr": 2 * rate if bias else rate, "weight_decay": 0.0 if bias else weight_decay})
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))


class Trainer:
    """The twin in training: what `tinyfcn.step.train_step` does, with automatic gradients."""

    def __init__(self, module, optimiser):
        self.module, self.optimiser = module, optimiser
        self.rates = [group["lr"] for group in optimiser.param_groups]

    def step(self, x, labels, reduction="mean", factor=1.0, class_weight=None):
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimiser.zero_grad()
        loss = loss_of(self.module(torch.from_numpy(x)), labels, reduction, class_weight)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def predict(self, x):
        with torch.no_grad():
            return self.module(torch.from_numpy(x)).argmax(1).numpy().astype(np.uint8)
