"""The models the kit can load: one package per architecture."""

import logging

# torchao, where it is installed, says at every import which GPU extensions it could not load.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
