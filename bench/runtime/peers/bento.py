"""The two services for BentoML; coroutines, which it runs without a thread of their own."""

import sys
from pathlib import Path

import bentoml

sys.path.insert(0, str(Path(__file__).parent.parent / "score"))


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Echo:
    """Gives the rows back."""

    @bentoml.api
    async def score(self, data: list[list[float]]) -> list[list[float]]:
        """Answer one request."""
        return data


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class LR:
    """Predicts the class of each row."""

    def __init__(self) -> None:
        import model

        self.model = model.train()

    @bentoml.api
    async def score(self, data: list[list[float]]) -> list[int]:
        """Answer one request."""
        return self.model.predict(data).tolist()
