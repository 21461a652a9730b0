"""A BERT-base classifier on a GPU behind the Open Inference Protocol, as a team might write it: one forward at a time.

    python3 server.py 8000

Its weights are random, so nothing is downloaded: it is for seeing what batches do to a model on a GPU. It needs torch, transformers,
aiohttp and a CUDA device, and has no part in make test.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from aiohttp import web
from transformers import BertConfig, BertForSequenceClassification

MOST_ROWS = 64

torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(num_labels=8)).half().cuda().eval()
one = ThreadPoolExecutor(1)


def forward(ids):
    with torch.inference_mode():
        return model(torch.as_tensor(ids, device="cuda")).logits.float().cpu().numpy()


async def infer(request):
    body = json.loads(await request.read())
    i = body["inputs"][0]
    shape = i["shape"]
    if len(shape) != 2 or shape[0] > MOST_ROWS or len(i["data"]) != shape[0] * shape[1]:
        return web.json_response({"error": f"shape {shape} and {len(i['data'])} values"}, status=400)
    ids = np.array(i["data"], dtype=np.int64).reshape(shape)
    logits = await asyncio.get_running_loop().run_in_executor(one, forward, ids)
    output = {"name": "logits", "datatype": "FP32", "shape": list(logits.shape), "data": logits.ravel().tolist()}
    return web.json_response({"model_name": "bert", "id": body.get("id"), "outputs": [output]})


async def metadata(request):
    return web.json_response({
        "name": "bert", "platform": "pytorch", "versions": ["1"],
        "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1, 128]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 8]}],
    })


async def ready(request):
    return web.json_response({"ready": True})


for rows in (1, 2, 4, 8, 16, 32, MOST_ROWS, 1):  # what CUDA does once for each size
    forward(np.ones((rows, 128), dtype=np.int64))
app = web.Application(client_max_size=1 << 26)
app.add_routes([
    web.post("/v2/models/bert/infer", infer), web.get("/v2/models/bert", metadata),
    web.get("/v2/health/ready", ready), web.get("/v2/models/bert/ready", ready),
])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
