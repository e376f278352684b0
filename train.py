"""Train a captioner: python train.py model=git-base trainer.devices=2"""

import hydra

from captioning.config.messages import run_main
from captioning.config.schema import Config
from captioning.run import run


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: Config) -> float | None:
    """Train with the composed configuration, and return the score that a sweep is judged by."""
    return run(cfg)


if __name__ == "__main__":
    run_main(main)
