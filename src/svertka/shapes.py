"""The letters of shapes, and the tensor types that public signatures are written in.

    n   images of a batch          c   channels (1 grey, 3 RGB; inside a network: feature maps)
    h   height in pixels           w   width in pixels
    k   classes                    d   entries of a feature vector

`Float[Tensor, "n c h w"]` says dtype, container and shape; tests check it at run time (jaxtyping with
beartype), normal runs do not.
"""

from jaxtyping import Bool, Float, Int, UInt8

__all__ = ["Bool", "Float", "Int", "UInt8"]
