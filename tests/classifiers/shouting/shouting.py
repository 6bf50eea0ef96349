"""A small model for MLServer: how much a text shouts. Not part of Penstock: it runs in the server's own process."""

import numpy as np
from mlserver import MLModel, types  # type: ignore[import-not-found,unused-ignore]
from mlserver.codecs import NumpyCodec, StringCodec  # type: ignore[import-not-found,unused-ignore]


class Shouting(MLModel):  # type: ignore[misc,unused-ignore]
    """Logits of calm and shouting, from the share of capital letters among all letters; texts of BOOM fail."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        if "BOOM" in texts:
            raise RuntimeError("this model knows no BOOM")
        shares = [sum(letter.isupper() for letter in text) / max(1, len(text)) for text in texts]
        logits = np.array([[2.0 - 6.0 * share, 6.0 * share - 2.0] for share in shares], dtype=np.float32)
        names = [["CALM", "SHOUTING"]] * len(texts)
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[
                NumpyCodec.encode_output("logits", logits),
                types.ResponseOutput(name="names", datatype="BYTES", shape=[len(texts), 2], data=names),
            ],
        )
