"""A step of GradMix beside a step of SupCon + SimCLR: same batch, network, device; epochs in turn, medians of ratios.

    python -m benchmarks.gradmix_step                        one core, a small network
    python -m benchmarks.gradmix_step --device cuda --width 64 --batch 256 --precision bf16 --channels-last

What is timed and how, `benchmarks/steps.py` says. The bound is 2.2 for the default (conv5_2); the released code takes
3.
"""

from dataclasses import replace

from benchmarks import steps
from trainables import gradmix

BOUND = 2.2
ARMS = {
    "gradmix": {},
    "gradmix conv4_2": {"layers": ("conv4_2",)},
    "gradmix conv3_2 + conv4_2": {"layers": ("conv3_2", "conv4_2")},
    "activation": {"map": "activation"},
    "random": {"map": "random"},
    "cutmix": {"mix": "cutmix"},
    "mixup": {"mix": "mixup"},
}


def main() -> int:
    """Prints the table; exit code 1 when the default is over the bound."""
    chosen = steps.arguments(__doc__, ARMS)
    data = steps.noise(chosen.batch * chosen.steps, chosen.side, 10)
    base = gradmix.Config(**steps.fields(chosen))
    runs = {"none": replace(base, mix="none")} | {name: replace(base, **ARMS[name]) for name in chosen.arms}
    arms = {name: gradmix.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    seconds = steps.timed(arms, chosen)
    print(steps.machine(chosen, "ResNet-18"))
    print(f"{'arm':28}{steps.COLUMNS}")
    medians = {}
    for name, values in seconds.items():
        ratio = steps.ratio(values, seconds["none"])
        medians[name] = ratio.median
        print(f"{name:28}{steps.milliseconds(values)}{ratio}")
    held = medians.get("gradmix", 0.0) <= BOUND
    print(f"gradmix: {'within' if held else 'OVER'} the bound of {BOUND}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
