"""Bridges to the tools that people already run: PEFT and vLLM adapters, plain checkpoints, trainers, notebooks."""

from skillpack.interop.drafting import ExportedTensor, LostTensor
from skillpack.interop.exporting import AdapterExport, export_adapter
from skillpack.interop.importing import import_adapter
from skillpack.interop.merged import MergedExport, export_merged

__all__ = [
    "AdapterExport",
    "ExportedTensor",
    "LostTensor",
    "MergedExport",
    "export_adapter",
    "export_merged",
    "import_adapter",
]
