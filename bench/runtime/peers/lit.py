"""The two services for LitServe, with its faster queue. Usage: lit.py echo|lr PORT"""

import sys
from pathlib import Path

import litserve


class Echo(litserve.LitAPI):
    """Gives the request back."""

    def setup(self, device):
        """Nothing to load."""

    def predict(self, request):
        """Answer one request."""
        return request


class LR(litserve.LitAPI):
    """Predicts the class of each row."""

    def setup(self, device):
        """Get the model."""
        sys.path.insert(0, str(Path(__file__).parent.parent / "score"))
        import model

        self.model = model.train()

    def predict(self, request):
        """Answer one request."""
        return self.model.predict(request["data"]).tolist()


if __name__ == "__main__":
    api = {"echo": Echo, "lr": LR}[sys.argv[1]](api_path="/score")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
