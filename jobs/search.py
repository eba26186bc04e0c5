"""The search of a study: proposes parameters, has them tried by tasks, and gives up what is worse than most.

optuna is imported inside functions.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from compute import ComputeManager
from compute.errors import ResultTimeout, TaskFailed
from jobs.search_space import read_space
from jobs.studies import StudyLog
from jobs.trials import Material, Rung, run_rung, rungs_of

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "rmse": "minimize", "mae": "minimize", "r2": "maximize",
    "log_loss": "minimize", "accuracy": "maximize", "roc_auc": "maximize",
    "precision": "maximize", "recall": "maximize", "f1": "maximize", "average_precision": "maximize",
}  # fmt: skip
"""What a study can look for, and whether less or more of it is better."""


class Search:
    """Asks Optuna, has trials run in tasks, and tells what came of them.

    Parameters
    ----------
    manager : ComputeManager
        Runs them.
    material : Material
        What they share.
    space : mapping
        As `read_space` takes it.
    fixed : mapping
        Parameters that all share.
    log : StudyLog
        Keeps those that have ended.
    known : sequence of mapping
        Those that had ended before.
    prune : bool
        Run them in rungs, and give up those that are worse than most.
    resources : mapping
        Of each.
    seed : int
        Of what Optuna proposes.

    Attributes
    ----------
    told : list of dict
        The trials that have ended, in that order.
    """

    def __init__(
        self,
        *,
        manager: ComputeManager,
        material: Material,
        space: Mapping[str, Any],
        fixed: Mapping[str, Any],
        log: StudyLog,
        known: Sequence[Mapping[str, Any]],
        prune: bool,
        resources: Mapping[str, object],
        seed: int,
    ) -> None:
        self.told: list[dict[str, Any]] = []
        self._manager = manager
        self._material = material
        self._space = read_space(space)
        self._fixed = fixed
        self._log = log
        self._known = known
        self._prune = prune
        self._resources = resources
        self._seed = seed
        self._running: dict[str, Running] = {}
        self._error: Exception | None = None

    def run(self, trials: int, parallel: int, deadline: float | None) -> optuna.Study:
        """Run until there are so many trials, and return the study."""
        study = self._restore()
        shared = self._manager.put(self._material)
        try:
            while len(self.told) < trials:
                in_time = deadline is None or time.monotonic() < deadline
                while in_time and len(self._running) < min(parallel, trials - len(self.told)):
                    self._begin(study, shared)
                task_id = self._next(deadline) if self._running else None
                if task_id is None:
                    break
                self._take(study, shared, task_id)
        finally:
            self._manager.drop(list(self._running), cancel=True)
        if not any(trial["state"] == "complete" for trial in self.told):
            raise TaskFailed(
                f"no trial of the study {self._log.name!r} succeeded",
                hint="The first error is the cause; widen the search space, or allow more time.",
            ) from self._error
        return study

    def _restore(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        states = optuna.trial.TrialState
        study = optuna.create_study(
            direction=METRICS[self._material.metric],
            sampler=optuna.samplers.TPESampler(seed=self._seed + len(self._known)),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )
        for trial in self._known:
            self.told.append(dict(trial))
            state = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[trial["state"]]
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    params=trial["params"],
                    distributions=self._space,
                    value=trial["value"] if state is states.COMPLETE else None,
                    intermediate_values={int(step): value for step, value in trial["steps"].items()},
                )
            )
        return study

    def _begin(self, study: optuna.Study, shared: Any) -> None:
        trial = study.ask(self._space)
        params = {**self._fixed, **trial.params}
        rungs: list[int | None] = [*rungs_of(self._material.model_type, params)] if self._prune else [None]
        self._submit(Running(trial, params, rungs), shared, None)

    def _submit(self, running: Running, shared: Any, models: list[Any] | None) -> None:
        task_id = self._manager.submit_task(
            run_rung, shared, running.params, running.rungs[running.step], models, resources=self._resources
        )
        self._running[task_id] = running

    def _next(self, deadline: float | None) -> str | None:
        """Return the first task to end; None when there is no time left to wait for it."""
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return next(self._manager.as_completed(list(self._running), timeout=patience))
        except ResultTimeout:
            return None

    def _take(self, study: optuna.Study, shared: Any, task_id: str) -> None:
        running = self._running.pop(task_id)
        trial = running.trial
        try:
            rung: Rung = self._manager.get_result(task_id)
        except Exception as error:  # noqa: BLE001  (whatever a library raises is what became of the trial)
            self._error = self._error or error
            self._tell(study, running, "failed", None, str(error))
            return
        finally:
            self._manager.drop([task_id])
        running.step += 1
        # Steps in powers of the reduction factor: those are Optuna's rungs.
        trial.report(rung.value, 3 ** (running.step - 1))
        running.values[3 ** (running.step - 1)] = rung.value
        if running.step == len(running.rungs):
            self._tell(study, running, "complete", rung.value, None)
        elif trial.should_prune():
            self._tell(study, running, "pruned", rung.value, None)
        else:
            self._submit(running, shared, rung.models)

    def _tell(self, study: optuna.Study, running: Running, state: str, value: float | None, error: str | None) -> None:
        import optuna

        states = optuna.trial.TrialState
        if state == "complete":
            study.tell(running.trial, value)
        else:
            study.tell(running.trial, state=states.PRUNED if state == "pruned" else states.FAIL)
        told = {
            "number": running.trial.number,
            "state": state,
            "params": running.trial.params,
            "value": value,
            "steps": {str(step): reached for step, reached in running.values.items()},
            "seconds": round(time.monotonic() - running.began, 3),
        }
        if error is not None:
            told["error"] = error[:1000]
        self._log.add(told)
        self.told.append(told)
        logger.info(
            "study=%s trial=%d state=%s %s=%s seconds=%.2f params=%s", self._log.name, told["number"], state,
            self._material.metric, value, told["seconds"], json.dumps(told["params"]),
        )  # fmt: skip


class Running:
    """A trial that is under way."""

    def __init__(self, trial: optuna.Trial, params: dict[str, Any], rungs: list[int | None]) -> None:
        self.trial = trial
        self.params = params
        self.rungs = rungs
        self.step = 0
        self.values: dict[int, float] = {}
        self.began = time.monotonic()
