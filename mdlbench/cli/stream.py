"""`encode` and `decode`: a rate as the size of a real file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdlbench.cli.options import (
    AdapterOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    LimitOption,
    QuantiserOption,
    SuiteOption,
    TextOption,
    output_option,
    setting,
)
from mdlbench.extensions.foreign import prints_on_stderr


def encode(
    spec: Annotated[str, typer.Argument(help="A key of the suite, ADAPTER:ARGUMENT or a folder.")],
    suite: SuiteOption,
    output: Annotated[Path, output_option("The file to write.")],
    step: Annotated[
        float | None,
        typer.Option(min=0, help="Quantiser step [the coarsest within the headline tolerance]."),
    ] = None,
    adapter: AdapterOption = None,
    limit: LimitOption = None,
    quantiser: QuantiserOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Write a test split's quantised latents as a real file, so that its size shows the rate.

    The file is decoded again and compared symbol by symbol before it is kept.
    """
    from mdlbench.cli import rows
    from mdlbench.codes import bitstream
    from mdlbench.scoring.single import encode_target
    from mdlbench.scoring.targets import targets
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    with prints_on_stderr():
        chosen = load_suite(suite)
        opener = Opener(chosen, setting(device, limit, text, dtype))
        target = targets(chosen, [spec], adapter)[0]
        data = encode_target(opener, target, step, quantiser)
    bitstream.write(output, data)
    rows.print_pairs({"file": str(output), **rows.stream_facts(bitstream.decode(data))})


def decode(
    file: Annotated[Path, typer.Argument(help="A file written by `mdlbench encode`.")],
    output: Annotated[
        Path | None,
        output_option("Write the symbols as .npz: token, latent, symbol, value."),
    ] = None,
) -> None:
    """Decode a file of `mdlbench encode`, compare its checksum and say what it holds."""
    from mdlbench.cli import rows
    from mdlbench.codes import bitstream
    from mdlbench.disk.files import write_atomically

    decoded = bitstream.decode(bitstream.read(file))
    if output is not None:
        write_atomically(output, rows.symbols_npz(decoded))
    rows.print_pairs({"file": str(file), **rows.stream_facts(decoded)})
