"""What must hold for a recipe to mean what it says; transformers accepts the contrary without a word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.distillation.objectives import HEADS, head_of
from secateur.errors import RecipeError, StructureError
from secateur.modeling.pooling import Pooling
from secateur.modeling.structure import find_blocks
from secateur.modeling.surgery import num_passes
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import DistillationStage, Recipe
from secateur.sparsity import Pruner

__all__ = [
    "check_arguments",
    "check_checkpoint",
    "check_groups",
    "check_lessons",
    "check_student",
    "check_teacher",
    "is_whole",
    "last_checkpoint",
    "note_run",
    "processes",
    "pruning_record",
    "require_equal_masks",
    "seed_length_groups_",
]

_KEY = "secateur"  # of our entry among the Trainer's stateful callbacks, which a checkpoint holds
_STATE = "trainer_state.json"  # what a Trainer writes last


def check_arguments(args: Any) -> None:
    """Checks a Trainer's arguments.

    Args:
        args: TrainingArguments.

    Raises:
        RecipeError: Training by them would silently do something else than the recipe.
    """
    if args.label_smoothing_factor != 0:
        raise RecipeError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, but smoothing takes the labels "
            "away from the model, and with them the teacher's part in the loss: set it to 0."
        )
    if args.n_gpu > 1:
        raise RecipeError(
            f"One process drives {args.n_gpu} GPUs, which copies the model for every batch and forgets what "
            f"the copies learnt of ranges: start with torchrun --nproc-per-node {args.n_gpu}, or set "
            "CUDA_VISIBLE_DEVICES to one."
        )


def check_student(recipe: Recipe, model: nn.Module) -> None:
    """Checks that a model is the student that a recipe starts with.

    Raises:
        RecipeError: It is a larger one.
    """
    shape = recipe.student
    if shape is None:
        return
    block, passes = find_blocks(model)[0], num_passes(model)
    layers = len(shape.layers) if isinstance(shape.layers, tuple) else shape.layers
    sizes = {
        "layers": (passes if layers == "half" else layers, passes),
        "hidden_size": (shape.hidden_size, block.hidden_size),
        "intermediate_size": (shape.intermediate_size, block.intermediate_size),
        "heads": (shape.heads, block.num_heads),
    }
    for name, (wanted, found) in sizes.items():
        if wanted is not None and wanted != found:
            raise RecipeError(
                f"The recipe {recipe.name!r} starts with a student of {name} {wanted}, but this model has "
                f"{found}: make the student with secateur.training.make_student(model, recipe) and give "
                "that, with the model as its teacher."
            )


def check_teacher(teacher: nn.Module, student: nn.Module, recipe: Recipe | None = None) -> None:
    """Checks that a teacher can speak to a student.

    Args:
        teacher: The dense model.
        student: Who learns.
        recipe: Says what is compared; None compares outputs.

    Raises:
        RecipeError: It cannot.
    """
    if teacher is student:
        raise RecipeError("Teacher and student are one and the same model: give the teacher as a copy.")
    own, other = getattr(teacher, "config", None), getattr(student, "config", None)
    if own is None or other is None:
        return
    if own.vocab_size != other.vocab_size:
        raise RecipeError(
            f"The teacher has a vocabulary of {own.vocab_size} tokens, the student one of "
            f"{other.vocab_size}: the same ids would mean other words; give one with the student's tokenizer."
        )
    heads = head_of(teacher), head_of(student)
    if heads[0] != heads[1]:
        raise RecipeError(
            f"The teacher is {HEADS[heads[0]]}, the student {HEADS[heads[1]]}: give one of its kind."
        )
    if heads[0] == "Model" and Pooling.of(own) != Pooling.of(other):
        raise RecipeError(
            f"The teacher pools its embeddings by {Pooling.of(own)}, the student by {Pooling.of(other)}: set "
            "sentence_embedding alike in their configs."
        )
    stages = () if recipe is None else recipe.stages_of(DistillationStage)
    by_width = recipe is None or any(one.outputs > 0.0 and one.vectors != "similarity" for one in stages)
    if heads[0] == "Model" and own.hidden_size != other.hidden_size and by_width:
        raise RecipeError(
            f"The teacher's embeddings are {own.hidden_size} wide, the student's {other.hidden_size}: "
            "a cosine needs equal widths; give a teacher as wide, or compare vectors by similarity."
        )
    if heads[0] not in ("ForSequenceClassification", "ForTokenClassification"):
        return
    if own.num_labels == other.num_labels == 1:
        return  # one number, whatever it is called
    if own.num_labels != other.num_labels or own.id2label != other.id2label:
        differ = next((i for i in sorted(other.id2label) if own.id2label.get(i) != other.id2label[i]), None)
        place = f"label {differ} is {other.id2label[differ]!r} to the student" if differ is not None else ""
        raise RecipeError(
            f"The teacher has {own.num_labels} labels and the student {other.num_labels}, "
            f"or in another order ({place or 'the teacher has more'}): fine-tune the teacher alike."
        )


def check_lessons(plan: StepPlan, model: nn.Module) -> None:
    """Checks that a model whose data have no labels has a teacher at every step.

    Raises:
        RecipeError: It has not.
    """
    if head_of(model) != "Model":
        return
    for step in range(plan.total_steps):
        lesson = plan.at(step).distillation
        if lesson is None or (lesson.hardness < 1.0 and lesson.outputs > 0.0):
            raise RecipeError(
                "Sentence embeddings have no labels and learn from the dense model alone, but at step "
                f"{step} of the recipe {plan.recipe.name!r} no teacher of hardness 1 speaks: add a "
                "distillation stage with hardness 1 over the whole run."
            )


def check_groups(recipe: Recipe, groups: Iterable[dict[str, Any]], optimizer: Any) -> None:
    """Checks that what a recipe itself learns has groups of its own in an optimizer.

    Args:
        recipe: The recipe.
        groups: Those groups.
        optimizer: The Trainer's; None where there is none yet.

    Raises:
        RecipeError: A group of the optimizer holds both.
    """
    own = {id(parameter) for group in groups for parameter in group["params"]}
    for group in () if optimizer is None else optimizer.param_groups:
        members = {id(parameter) for parameter in group["params"]}
        if members & own and members - own:
            raise RecipeError(
                f"The recipe {recipe.name!r} has something that learns in an optimizer group of its own: "
                "call callback.connect_(trainer) right after the Trainer is made."
            )


def is_whole(checkpoint: str | Path) -> bool:
    """Says whether a Trainer finished writing a checkpoint.

    Args:
        checkpoint: A folder `checkpoint-N`.
    """
    folder = Path(checkpoint)
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(state, dict) or not {"global_step", "max_steps"} <= state.keys():
        return False
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    needed = (folder / name for name in ("optimizer.pt", "scheduler.pt"))
    random = [*folder.glob("rng_state*.pth")]
    several = state.get("stateful_callbacks", {}).get(_KEY, {}).get("attributes", {}).get("processes", 1)
    return bool(weights) and len(random) >= several and all(path.is_file() for path in needed)


def last_checkpoint(folder: str | Path) -> Path | None:
    """Returns the newest whole checkpoint that a Trainer wrote, or None.

    transformers' own search takes the newest even if the run was killed while writing it, and a Trainer then
    starts without its optimizer, or at step 0, without a word.

    Args:
        folder: The Trainer's `output_dir`.
    """
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in Path(folder).glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and is_whole(path)
    ]
    return max(found)[1] if found else None


def note_run(recipe: Recipe, steps_per_epoch: int, state: Any, processes: int = 1) -> list[dict[str, float]]:
    """Notes in a Trainer's state, and so in its checkpoints, what the run is.

    Args:
        recipe: The recipe.
        steps_per_epoch: Optimizer steps an epoch.
        state: TrainerState.
        processes: How many train together.

    Returns:
        The list of what pruning chose so far, a part of the state: what is appended is saved with it.
    """
    pruning = pruning_record(state) if state.global_step else []
    attributes = _described(recipe, steps_per_epoch, state) | {"processes": processes, "pruning": pruning}
    state.stateful_callbacks[_KEY] = {"args": {}, "attributes": attributes}
    return pruning


def pruning_record(state: Any) -> list[dict[str, float]]:
    """Returns what the updates of a run chose: `step`, `sparsity`, and what the method noted of itself.

    Args:
        state: TrainerState, of a run or from one of its checkpoints.
    """
    noted = (state.stateful_callbacks or {}).get(_KEY, {}).get("attributes", {})
    return list(noted.get("pruning", []))


def check_checkpoint(
    witness: tuple[nn.Parameter, Tensor] | None,
    recipe: Recipe,
    steps_per_epoch: int,
    state: Any,
    optimizer: Any = None,
) -> None:
    """Checks that a run begins at the beginning, or resumes from a whole checkpoint of its own.

    Args:
        witness: A parameter, and what it was when the recipe was attached.
        recipe: The recipe.
        steps_per_epoch: Optimizer steps an epoch.
        state: TrainerState.
        optimizer: The Trainer's, its state loaded.

    Raises:
        RecipeError: It does not.
    """
    if state.global_step == 0:
        if witness is not None and not torch.equal(*(tensor.detach().cpu() for tensor in witness)):
            raise RecipeError(
                "The Trainer starts at step 0 with weights that are not those the recipe was attached to: "
                "it trains a second time, or other weights were loaded; make a new Trainer, or resume from "
                "secateur.training.last_checkpoint(output_dir)."
            )
        return
    if optimizer is not None and not optimizer.state and "momentum" not in optimizer.defaults:
        raise RecipeError(
            f"The checkpoint of step {state.global_step} lacks the optimizer's state, without which the run "
            "would end elsewhere: save without save_only_model, and start anew."
        )
    noted = (state.stateful_callbacks or {}).get(_KEY, {}).get("attributes")
    if noted is None:
        raise RecipeError(
            f"The checkpoint of step {state.global_step} was written by a Trainer without this callback: "
            "resume from one of this run, or start anew."
        )
    now = _described(recipe, steps_per_epoch, state)
    differ = [name for name, value in now.items() if noted.get(name) != value]
    if differ:
        name = differ[0]
        shown = "" if name == "recipe" else f", {noted.get(name)} then and {now[name]} now"
        raise RecipeError(
            f"The checkpoint of step {state.global_step} belongs to a run with another "
            f"{name.replace('_', ' ')}{shown}: resume with what it was started with, or start anew."
        )


def seed_length_groups_(train_dataloader: Any, seed: int) -> None:
    """Lets rows grouped by length come in an order that depends on seed and epoch only.

    transformers draws that order from the global random numbers, which a run resumed in the middle of an
    epoch no longer has: it would see rows twice and others never.

    Args:
        train_dataloader: The Trainer's, prepared by accelerate.
        seed: The run's.
    """
    batches = getattr(train_dataloader, "batch_sampler", None)
    for owner in (batches, getattr(batches, "batch_sampler", None)):
        sampler = getattr(owner, "sampler", None)
        if isinstance(sampler, LengthGroupedSampler) and sampler.generator is None:
            sampler.generator = torch.Generator()
            sampler.set_epoch = _Reseeding(sampler.generator, seed)


def processes() -> int:
    """Returns how many processes train together."""
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1


def require_equal_masks(pruner: Pruner) -> None:
    """Raises StructureError where processes that train together chose different masks."""
    if processes() == 1:
        return
    own = pruner.fingerprint()
    extremes = torch.stack((own, -own))
    distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
    if not torch.equal(extremes[0], -extremes[1]):
        raise StructureError(
            "The processes chose different masks, so their weights have drifted apart: start them from the "
            "same model, and let DistributedDataParallel (the Trainer, accelerate) average the gradients."
        )


class _Reseeding:
    """What accelerate calls before every epoch."""

    def __init__(self, generator: torch.Generator, seed: int) -> None:
        self._generator = generator
        self._seed = seed

    def __call__(self, epoch: int) -> None:
        self._generator.manual_seed(self._seed + epoch)


def _described(recipe: Recipe, steps_per_epoch: int, state: Any) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "steps_per_epoch": steps_per_epoch,
        "total_steps": state.max_steps,
    }
