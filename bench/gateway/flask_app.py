"""The usual way to serve a scoring script without a platform: Flask in front of init and run."""

import score
from flask import Flask, jsonify, request

app = Flask(__name__)
score.init()


@app.post("/score")
def scored():
    """Score one request."""
    return jsonify(score.run(request.get_data(as_text=True)))
