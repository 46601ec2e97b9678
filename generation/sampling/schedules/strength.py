"""How much of a schedule img2img takes. Knows schedules; knows no picture.

    strength 1            every step, from latents that are all but noise
    strength 0.6 of 10    |  .  .  .  .  |  6 steps, from the source's latents with the noise of step 4

diffusers' pipelines differ in how they round: those of flow models take the partial step, the others leave it out.
The pipeline of latent consistency models has another rule, which stretches all its steps below the strength.
"""

from __future__ import annotations

from generation.sampling.schedules.contract import Schedule


def from_strength(schedule: Schedule, strength: float, is_flow: bool) -> Schedule:
    """The part of a whole schedule that a strength from 0 to 1 leaves. Raises ValueError where it leaves nothing."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength:g} is not a share; give a number from 0 to 1")
    steps = -(-len(schedule) // schedule.order)
    skipped = int(steps - steps * strength) if is_flow else steps - int(steps * strength)
    if skipped == steps:
        raise ValueError(f"strength {strength:g} leaves none of {steps} steps; give at least {1 / steps:.2g}")
    return schedule.begin(skipped * schedule.order)
