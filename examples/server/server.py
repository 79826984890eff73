"""A server that answers posted photos from one Classifier.

pip install 'rrr-edge[openvino]' fastapi uvicorn
BUNDLE=mugs.rrr uvicorn --app-dir examples/server server:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request

from rrr_edge import Classifier
from rrr_edge.errors import BadInput
from rrr_edge.timing.machine import usable_cores

MAX_BYTES = 20_000_000


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One Classifier for all requests: photos are decoded side by side, and the engine answers one after the other."""
    with Classifier.open(os.environ["BUNDLE"]) as classifier:
        app.state.classifier = classifier
        app.state.threads = CapacityLimiter(usable_cores())
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> dict[str, str | float | bool]:
    """The answer to the photo that is the request's body: a JPEG, or any other format that the training reads.

    An engine that `rrr-edge calibrate` has taught when not to answer says by "answered" whether it is sure enough.
    """
    photo = bytearray()
    async for piece in request.stream():
        photo += piece
        if len(photo) > MAX_BYTES:
            raise HTTPException(413, f"A photo may have {MAX_BYTES // 1_000_000} MB.")
    try:
        answer = await to_thread.run_sync(app.state.classifier.predict, bytes(photo), limiter=app.state.threads)
    except BadInput as error:
        raise HTTPException(422, str(error)) from error
    return {
        "label": answer.label,
        "probability": answer.probability,
        "uncertainty": answer.uncertainty,
        "answered": answer.answered,
    }
