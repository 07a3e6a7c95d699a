"""Shape aliases; checked at run time in the tests (`pytest --jaxtyping-packages=zoo,beartype.beartype`)."""

from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "*sample batch channels height width"]  # noqa: F722
Codes: TypeAlias = Float[Tensor, "*sample batch dim"]  # noqa: F722
PerImage: TypeAlias = Float[Tensor, " batch"]  # noqa: F722
PerSample: TypeAlias = Float[Tensor, "sample batch"]  # noqa: F722
Labels: TypeAlias = Int[Tensor, " batch"]  # noqa: F722
LogProbs: TypeAlias = Float[Tensor, "batch classes"]  # noqa: F722
