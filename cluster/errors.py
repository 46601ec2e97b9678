"""The errors that a caller of this library may want to catch, wherever in it they arise."""

from __future__ import annotations

from cluster.engine.driver import Interrupted as Interrupted
from cluster.engine.supervision import TaskFailed as TaskFailed
from cluster.spec.fields import SpecError as SpecError
from generation.models.errors import ModelError as ModelError
from generation.models.errors import NumericalError as NumericalError
from storage.exports.contract import ExportError as ExportError
from storage.fingerprint import FormatError as FormatError
