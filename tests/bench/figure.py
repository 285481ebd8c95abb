"""What a measurement gives."""
import dataclasses


@dataclasses.dataclass
class Figure:
    value: float
    command: str            # what measured it, as a reader would type it
    peer: str = ""          # what it is compared with, and its figure
    ratio: float = None     # value over the peer's figure
    note: str = ""
    device: str = ""        # the GPU that it ran on, by Context.gpu; "" for none
