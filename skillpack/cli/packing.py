"""The command `pack`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.documents import pack_document, sweep_document
from skillpack.cli.options import dry_run_option, history_options, output_options, parse_size, store_options
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.packing import PackReport, SweepReport
    from skillpack.packing.metric import Metric
    from skillpack.packing.sweeping import SweepPoint


@click.command(
    short_help="Turn a fine-tune into a skill.",
    epilog="Example: skillpack pack org/base ./math-tuned --name math --size 5MB",
)
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path())
@click.option("--name", metavar="NAME", help="Name of the skill; by default that of the fine-tune's folder.")
@click.option("--exact", is_flag=True, help="Come back bit for bit.")
@click.option("--size", type=parse_size, metavar="SIZE", help="Take at most 5MB, 2.5MiB, 500kB or this many bytes.")
@click.option("--quality", type=float, metavar="NUMBER", help="Between 0 and 1; 0.9 unless something else is asked.")
@click.option("--max-kl", type=float, metavar="NATS", help="Mean KL from the fine-tune that it may have on texts.")
@click.option(
    "--refine",
    type=click.IntRange(0),
    metavar="STEPS",
    help="Learn from texts in so many steps; by default 3 with --calibration, and none with --max-kl.",
)
@click.option("--calibration", metavar="DATA", help="Texts; by default self, what the fine-tune writes itself.")
@click.option("--examples", metavar="DATA", help="Prompts of what the skill is for; see skillpack route.")
@click.option("--metric", type=click.Choice(["identity", "activation", "fisher"]), help="How texts weigh tensors.")
@click.option("--statistics", type=click.Path(dir_okay=False), metavar="FILE", help="Keep what texts show for later.")
@click.option("--sweep", type=click.Path(file_okay=False), metavar="FOLDER", help="Write the curve of all sizes here.")
@click.option("--license", metavar="ID", help="SPDX identifier for the model card; by default the base's.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Tensors at a time; one per core by default.")
@click.option("--device", default="cpu", metavar="DEVICE", help="Torch device, such as cuda:1.", show_default=True)
@click.option("--ray", metavar="ADDRESS", help="Ray cluster that helps: HOST:PORT, ray://HOST:PORT or auto.")
@history_options
@store_options
@dry_run_option
@output_options
def pack(
    base: str,
    tuned: str,
    *,
    name: str | None,
    exact: bool,
    size: int | None,
    quality: float | None,
    max_kl: float | None,
    refine: int | None,
    calibration: str | None,
    examples: str | None,
    metric: Metric | None,
    statistics: str | None,
    sweep: str | None,
    license: str | None,  # noqa: A002 - the option's name
    workers: int | None,
    device: str,
    ray: str | None,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Turn a fine-tune into a skill and keep it in the library.

    BASE is the model that the fine-tune started from and TUNED the fine-tune: a model folder, a .safetensors file or
    a Hub id such as org/name or org/name@revision. TUNED may also be the folder of a PEFT LoRA adapter.

    --exact, --size, --quality and --max-kl exclude one another. The size is that of the whole skill on disk.

    --max-kl packs at several sizes, installs each on a copy of BASE and measures KL(tuned || packed) in nats for each
    predicted token; the smallest skill is kept whose 95 % interval lies below NATS.

    --calibration DATA finds out from texts in which tensors errors matter most and codes these more finely; some dozen
    prompts are enough. DATA is as for skillpack eval: a .txt or .jsonl file, a dataset's folder, org/name, or self for
    texts that the fine-tune writes; prompts without answers are answered by it. --metric fisher, the default, asks the
    fine-tune's gradients, activation only the layers' inputs, identity nothing. --statistics FILE keeps the answer, or
    takes it from FILE if that is there.

    --examples DATA attaches what the base makes of some dozen prompts, so that skillpack route can choose the skill; by
    default those of --calibration. The texts are not kept.

    --refine then tries whether weak columns had better be kept farther down, in as many bytes, and lets errors of
    rounding cancel out where the fine-tune's predictions are sensitive to them. Every fourth text is kept for
    measuring, and moves that do not help there are dropped.

    --sweep packs at nine sizes from about 0.3 % to 12 % of the fine-tune and writes size against relative error to
    FOLDER as curve.json, curve.png and curve.svg; with --calibration DATA, which may be self, also against KL, by real
    forward passes. No skill is put into the library then, and none of --exact, --size, --quality, --max-kl, --refine,
    --name, --examples, --license and --dry-run makes sense. It needs matplotlib: python -m pip install
    "skillpack[plot]". In Python: skillpack.sweep.

    What takes long is finding singular vectors. --device lets a GPU do it, --ray the machines of a running cluster,
    which need the same version of skillpack[ray]; both together give each task of the cluster a GPU. The skill is the
    same for any number of workers or machines of one kind. A GPU gives other last bits, but the same size and quality
    within 1 %. A pack that was interrupted goes on when the same command is run again, within 14 days.
    """
    if sweep is not None:
        if (
            exact
            or refine
            or dry_run
            or any(one is not None for one in (size, quality, max_kl, name, examples, license))
        ):
            raise UsageError(
                "--sweep packs at many sizes and keeps none",
                hint="Leave out --sweep, or all other goals, --dry-run, --name, --examples and --license.",
            )
        with output.progress() as progress:
            curve = skillpack.sweep(
                base,
                tuned,
                sweep,
                calibration=calibration,
                metric=metric,
                statistics=statistics,
                workers=workers,
                device=device,
                ray=ray,
                progress=progress,
            )
        _show_curve(curve, output)
        return
    with output.progress() as progress:
        report = skillpack.pack(
            base,
            tuned,
            name,
            exact=exact,
            size=size,
            quality=quality,
            max_kl=max_kl,
            refine=refine,
            calibration=calibration,
            examples=examples,
            metric=metric,
            statistics=statistics,
            store=store,
            branch=branch,
            message=message,
            author=author,
            license=license,
            workers=workers,
            device=device,
            ray=ray,
            dry_run=dry_run,
            progress=progress,
        )
    output.result(pack_document(report, dry_run=dry_run), *_summary(report))


def _show_curve(curve: SweepReport, output: Output) -> None:
    if output.as_json:
        output.document(sweep_document(curve))
        return
    measured = curve.samples is not None
    rows = [
        (human(point.size), f"{point.share:.2%}", f"{point.error:.3g}", *(_divergence(point) if measured else ()))
        for point in curve.points
    ]
    headings = ["bytes", "share", "error", *(["KL", "95 % interval"] if measured else [])]
    output.table(dict.fromkeys(headings, "right"), rows)
    output.say(f"wrote {', '.join(map(str, curve.written))}", "no skill was put into the library")


def _divergence(point: SweepPoint) -> tuple[str, str]:
    low, high = point.kl_interval or (0.0, 0.0)
    return f"{point.kl:.3g}", f"{low:.3g}-{high:.3g}"


def _summary(report: PackReport) -> Iterator[str]:
    manifest = report.manifest
    stored = bool(report.digest)
    address = f"{report.name}@{report.version}" if stored else report.name
    share = report.size / max(1, report.tuned_size)
    yield (
        f"{'packed' if stored else 'would pack'} {address}: {human(report.size)}, "
        f"{share:.2%} of the fine-tune's {human(report.tuned_size)}"
    )
    rough = sum(entry.error > 0 for entry in manifest.tensors)
    gone = f", {len(manifest.gone)} gone" if manifest.gone else ""
    yield (
        f"{counted(len(manifest.tensors), 'tensor')} changed{gone}, {report.unchanged} unchanged, "
        f"{counted(len(manifest.files), 'file')} changed; "
        + (f"{counted(rough, 'tensor')} approximated" if rough else "comes back bit for bit")
    )
    if report.resumed:
        yield f"resumed: {counted(report.resumed, 'tensor')} had been worked on before an earlier pack was interrupted"
    if report.measured is not None:
        measured = report.measured
        yield (
            f"KL from the fine-tune: {measured.kl:.3g} nats, at most {measured.upper:.3g} with 97.5 % confidence "
            f"({counted(measured.samples, 'sample')}, {measured.tokens:,} predictions)"
        )
        yield from (f"note: {remark}" for remark in measured.remarks)
    if report.code_files:
        yield f"left out, since a skill never carries code: {listing(report.code_files)}"
    yield (
        f"next: skillpack show {report.name}; skillpack install {report.name} MODEL_DIR"
        if stored
        else "dry run: nothing was stored"
    )
