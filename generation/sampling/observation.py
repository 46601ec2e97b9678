"""What is known of a picture while it is drawn: the place between fusion and the solver's step where that comes in.

    x[k], patches' predictions -> fused prediction -> corrected prediction -> x[k + 1]

A correction makes the fused prediction agree with what was observed: it replaces the clean latents that it implies
where they are known, or moves them towards a measurement. The engine knows no more of it than this.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box


class Observation(Protocol):
    """Corrects fused predictions. A value, the same for every worker."""

    @property
    def cell(self) -> int:
        """Side, in latents, of the squares of the canvas that are corrected one by one; 1 where each latent is."""

    def corrected(
        self, k: int, box: Box, x: NDArray[np.float32], prediction: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """x[k] and the fused prediction there, both (C, h, w) on a box -> the prediction to step with, as large.

        The box is made of whole cells, but at borders of the canvas, and may leave a canvas that wraps. What comes out
        at a latent depends on x and the prediction in its cell alone: so no block shows.
        """


class Unobserved:
    """Nothing is known: predictions stay as they are. Satisfies Observation."""

    cell = 1

    def corrected(
        self, k: int, box: Box, x: NDArray[np.float32], prediction: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        del k, box, x
        return prediction


UNOBSERVED = Unobserved()
