"""What SAEs on the pixels cost where each network is the classifier: the harness's own records."""

from __future__ import annotations

from pathlib import Path

import yaml

from mdlbench.bilinear.network import NETWORK_FILE
from mdlbench.console.stages import OnStage
from mdlbench.disk.files import write_atomically
from mdlbench.papers.mechanism.plan import Plan
from mdlbench.records.record import EvalRecord
from mdlbench.scoring import suite_run
from mdlbench.scoring.engine import Engine
from mdlbench.scoring.targets import key_target
from mdlbench.sources.open import Opener
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

METRIC = "delta_ce"


def suite_of(network: Path, folder: Path, base: Suite) -> Suite:
    """A suite like `base`, with tolerances on ΔCE alone, of a network that is its classifier.

    It is written into `folder` with the network, so that anybody can score more SAEs in it.
    """
    write_atomically(folder / NETWORK_FILE, network.read_bytes())
    content = base.model_dump(mode="json", exclude_defaults=True, exclude={"saes"})
    content["name"] = f"{base.name}-{folder.name}"
    content["source"]["classifier"] = NETWORK_FILE
    content["tolerances"] = [one for one in content["tolerances"] if one["metric"] == METRIC]
    text = yaml.safe_dump(content, sort_keys=False)
    write_atomically(folder / "suite.yaml", text.encode())
    return load_suite(folder)


def score(
    network: Path, folder: Path, plan: Plan, on_stage: OnStage, engine: Engine
) -> list[EvalRecord]:
    """Records of the plan's SAEs, kept in `folder`; what is finished is not scored again.

    Raises:
        MdlbenchError: one of them cannot be scored; the message names all of those.
    """
    base = load_suite(plan.suite)
    opener = Opener(suite_of(network, folder, base), on_stage=on_stage)
    wanted = [key_target(base, key) for key in plan.saes]
    return suite_run.all_scored(suite_run.run(opener, wanted, folder, on_stage, engine=engine))
