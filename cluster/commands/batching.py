"""`batch`: many pictures from a table of requests, as a dataset. Knows flags; draws nothing."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.boundary import FAILURE
from cluster.commands.flags import PICTURE, PLACE, RUN, seeded
from cluster.commands.making import ASK_BYTES, Debug, Yes, agree, shorter, waited_for
from cluster.commands.session import session_of
from cluster.following.showing import shown
from cluster.spec.defaults import slug
from cluster.spec.job_file import canonical, read_fields
from cluster.wording import gigabytes

if TYPE_CHECKING:
    from cluster.datasets.disk import DiskNeed
    from cluster.spec.fields import JobSpec

TABLE, FILES = "Requests", "Files"


def _flag(help: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


Text = str | None


def batch(
    context: typer.Context,
    requests: Annotated[
        Path | None,
        typer.Argument(metavar="TABLE", help="Requests: .parquet, .csv or .jsonl.", show_default=False),
    ] = None,
    n_images: Annotated[
        int | None,
        _flag(
            "So many pictures of the same label, instead of a table.", TABLE, "--n-images", "-n", metavar="N"
        ),
    ] = None,
    prompt: Annotated[
        Text, _flag("What pictures show, where a row does not say it.", TABLE, "--label", "--prompt")
    ] = None,
    image_size: Annotated[
        Text,
        _flag(
            "Size in pixels, where a row does not say it.",
            TABLE,
            "--image-size",
            "--size",
            metavar="SIZE",
        ),
    ] = None,
    width: Annotated[Text, _flag("The sides apart, in pixels.", TABLE, metavar="N")] = None,
    height: Annotated[Text, _flag("The other one.", TABLE, metavar="N")] = None,
    seed: Annotated[
        Text, _flag("Seed of row 0, where rows have none, or random (default: 0).", TABLE, metavar="N")
    ] = None,
    cond_scale: Annotated[
        Text, _flag("Guidance as null + (1 + C) (conditional - null), as in generate.", PICTURE, metavar="C")
    ] = None,
    guidance_scale: Annotated[
        Text,
        _flag(
            "Classifier-free guidance, instead (default: the model's).",
            PICTURE,
            "--guidance-scale",
            "--cfg-scale",
            metavar="X",
        ),
    ] = None,
    num_inference_steps: Annotated[
        Text,
        _flag(
            "Denoising steps (default: the model's).",
            PICTURE,
            "--sampling-steps",
            "--num-inference-steps",
            "--steps",
            metavar="T",
        ),
    ] = None,
    negative_prompt: Annotated[Text, _flag("What they should not show.", PICTURE)] = None,
    method: Annotated[Text, _flag("How patches join, as in generate.", PICTURE)] = None,
    overlap: Annotated[
        Text, _flag("Share of a patch that the next one covers.", PICTURE, metavar="SHARE")
    ] = None,
    blend_last: Annotated[
        Text, _flag("Last steps in which patches blend, as in generate.", PICTURE, metavar="N")
    ] = None,
    decode: Annotated[Text, _flag("hann (default) or four-shift, as in generate.", PICTURE)] = None,
    scheduler: Annotated[
        Text, _flag("As in generate (default: the model's).", PICTURE, "--scheduler", "--sampler")
    ] = None,
    eta: Annotated[Text, _flag("Noise of DDIM-like schedulers, 0 to 1.", PICTURE, metavar="X")] = None,
    topology: Annotated[Text, _flag("plane (default), ring or torus.", PICTURE)] = None,
    class_labels: Annotated[
        Path | None,
        _flag("What the labels of rows' class maps mean, as in generate.", PICTURE, metavar="FILE"),
    ] = None,
    clean_map: Annotated[
        Text, _flag("Remove specks of fewer cells from class maps, as in generate.", PICTURE, metavar="N")
    ] = None,
    regions: Annotated[
        Path | None,
        _flag("Map of labels, or GeoJSON shapes, stretched over every picture.", PICTURE, metavar="MAP"),
    ] = None,
    region: Annotated[
        list[str] | None,
        _flag("What a label of the map shows; repeat for more.", PICTURE, metavar="LABEL=PROMPT"),
    ] = None,
    region_box: Annotated[
        list[str] | None,
        _flag("What a box of every picture shows; repeat for more.", PICTURE, metavar="X,Y,W,H=PROMPT"),
    ] = None,
    region_feather: Annotated[
        Text, _flag("Pixels over which neighbours blend (default: 0).", PICTURE, metavar="PIXELS")
    ] = None,
    model: Annotated[
        Text, _flag("As in generate (default: embedded).", PLACE, metavar="ID|PATH|embedded")
    ] = None,
    loras: Annotated[
        list[str] | None, _flag("LoRA to fuse; repeat for more.", PLACE, "--lora", metavar="ID|PATH[:WEIGHT]")
    ] = None,
    allow_pickle: Annotated[
        bool, _flag("Load weights that are not safetensors.", PLACE, "--allow-pickle")
    ] = False,
    config_from: Annotated[
        Text, _flag("Configuration of a single file, as in generate.", PLACE, metavar="ID|DIR")
    ] = None,
    vae: Annotated[Text, _flag("Autoencoder, as in generate.", PLACE, metavar="ID|PATH")] = None,
    prediction_type: Annotated[Text, _flag("What the model predicts, as in generate.", PLACE)] = None,
    rescale_zero_snr: Annotated[
        bool | None,
        _flag(
            "It was trained down to pure noise, as in generate.",
            PLACE,
            "--rescale-zero-snr",
        ),
    ] = None,
    timestep_spacing: Annotated[Text, _flag("Training steps to take, as in generate.", PLACE)] = None,
    dtype: Annotated[Text, _flag("float32, float16 or bfloat16 (default: by device).", PLACE)] = None,
    device: Annotated[Text, _flag("cpu or cuda (default: cuda where there is one).", PLACE)] = None,
    out: Annotated[
        Path | None,
        _flag("Folder of the dataset (default: out/TABLE or LABEL).", FILES, "--out", "-o", metavar="DIR"),
    ] = None,
    filter: Annotated[
        Text,
        _flag(
            "Judge of pictures: False leaves one out, a number is its score.",
            FILES,
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    webdataset: Annotated[bool, _flag("Write WebDataset tars too.", FILES, "--webdataset")] = False,
    folders: Annotated[bool, _flag("Write plain folders of PNGs too.", FILES, "--folders")] = False,
    config: Annotated[
        Path | None, _flag("YAML file of settings; flags override it.", RUN, metavar="FILE")
    ] = None,
    batch_size: Annotated[
        Text, _flag("Patches of one evaluation (default: 4, on GPUs 16).", RUN, metavar="B")
    ] = None,
    executor: Annotated[Text, _flag("ray (default; local, or on RAY_ADDRESS) or in-process.", RUN)] = None,
    workers: Annotated[Text, _flag("Workers (default: every core, or every GPU).", RUN, metavar="N")] = None,
    threads: Annotated[Text, _flag("CPU threads of a worker (default: 1).", RUN, metavar="N")] = None,
    resume: Annotated[bool, _flag("Go on where DIR holds this batch.", RUN, "--resume")] = False,
    retry_failed: Annotated[
        bool, _flag("The same, and draw requests that failed once more.", RUN, "--retry-failed")
    ] = False,
    plan: Annotated[
        bool, _flag("Check all requests, say what they take on disk, and make nothing.", RUN, "--plan")
    ] = False,
    yes: Yes = False,
    debug: Debug = False,
) -> None:
    """Make a dataset of many pictures: Parquet shards with images, masks, prompts and seeds.

    A table has the columns id, prompt (or label), seed, width and height; negative_prompt, guidance_scale,
    num_inference_steps and classes where rows say more. What a row leaves out comes from the flags.
    """
    session = session_of(context)
    session.debug |= debug
    given = {
        "prompt": prompt, "seed": seed, "cond_scale": cond_scale,
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps, "method": method, "overlap": overlap, "scheduler": scheduler,
        "eta": eta, "topology": topology, "model": model, "loras": loras or None, "dtype": dtype, "device": device,
        "allow_pickle": allow_pickle or None, "batch_size": batch_size, "executor": executor, "workers": workers,
        "threads": threads, "class_labels": class_labels, "blend_last": blend_last, "decode": decode,
        "clean_map": clean_map, "regions": regions, "region": region or None, "region_box": region_box or None,
        "region_feather": region_feather, "config_from": config_from, "vae": vae, "prediction_type": prediction_type,
        "rescale_zero_snr": rescale_zero_snr, "timestep_spacing": timestep_spacing,
    }  # fmt: skip
    fields = {} if config is None else read_fields(config, allow_pickle)
    given |= {"size": image_size, "width": width, "height": height}
    asked = fields | canonical({name: value for name, value in given.items() if value is not None})
    fields = seeded(asked)
    fields["out"] = out or fields.get("out") or _folder(requests, fields)

    if (requests is None) != (n_images is None):  # otherwise the table is refused below, in the next line
        what = _asked(requests, n_images, str(fields.get("prompt", "")))
        session.announce(f"a batch, {what}, in {fields['out']}: reading the model and checking all requests")

    from cluster.datasets.entry import make_batch, plan_batch, table_of
    from cluster.datasets.extras import Extras
    from cluster.engine.executors import make_here

    table, extras = table_of(requests, n_images), Extras(webdataset, folders)
    if plan:
        planned, need = plan_batch(table, fields, filter=filter, extras=extras)
        print(
            f"{planned.requests:,} requests in {planned.shards:,} shard{'s' * (planned.shards != 1)}, nothing drawn"
        )
        print(need.line())
        need.check()
        return
    drawn = () if fields.get("seed") == asked.get("seed") else ("--seed", str(fields["seed"]))
    session.command = shlex.join(["hypermosaic", *sys.argv[1:], *drawn, *(() if resume else ("--resume",))])

    def told(need: DiskNeed) -> None:
        print(need.line(), file=sys.stderr)
        if not (yes or resume or retry_failed) and need.expected > ASK_BYTES:
            agree("batch", f"about {gigabytes(need.expected)} of disk")

    def claimed(spec: JobSpec) -> None:
        session.begin()
        session.announce(waited_for(spec))

    with shown() as listener:
        result = make_batch(
            table, fields, filter=filter, extras=extras, resume=resume, retry_failed=retry_failed, on_event=listener,
            on_planned=told, on_claimed=claimed, make=make_here,
        )  # fmt: skip
    session.running = False
    print(result.folder)
    counts = asdict(result.summary)
    if counts["filtered"]:
        print(
            f"{counts['filtered']} of {counts['requests']} pictures were left out by the filter",
            file=sys.stderr,
        )
    if counts["failed"]:
        print(
            f"{counts['failed']} of {counts['requests']} requests failed: see {result.folder / 'errors.parquet'}",
            file=sys.stderr,
        )
        raise typer.Exit(FAILURE)


def _asked(requests: Path | None, n_images: int | None, prompt: str) -> str:
    """ "requests.csv", "1,000 of 'forest'"."""
    if requests is not None:
        return requests.name
    return f"{n_images:,} of {shorter(prompt)!r}" if prompt else f"{n_images:,} pictures"


def _folder(requests: Path | None, fields: dict[str, Any]) -> Path:
    name = requests.stem if requests is not None else slug(str(fields.get("prompt", "batch")))
    return Path("out") / name
