"""The colours, dashes and markers that tell curves apart, even without colour and where curves lie on each other."""

from dataclasses import dataclass

# The palette of Okabe and Ito, which is safe for colour-blind readers, without black and yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK_COLORS = ("#5AB0E8", "#FF8A3D", "#2DCB9F", "#E79BC4", "#F0B93A", "#8FD0F5")  # the same hues on a dark page
HEALTHY, ALARM = "#2ca02c", "#C62828"
DASHES = ((), (6, 3), (2, 2), (9, 3, 2, 3), (12, 4), (4, 2, 1, 2, 1, 2))  # lengths of line and gap, in pixels
MARKERS = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("cross", "P"), ("x", "X"), ("triangle-up", "^"))


@dataclass(frozen=True)
class Look:
    """
    How one line is drawn. Neighbouring numbers differ in colour, dash pattern and marker.

    :param number: position of the line among those of a report, from 0
    """

    number: int

    @property
    def place(self) -> int:
        """Index of the colour."""
        return self.number % len(COLORS)

    @property
    def color(self) -> str:
        """Colour on white paper."""
        return COLORS[self.place]

    @property
    def dash(self) -> tuple[int, ...]:
        """Lengths of line and gap in pixels; empty for a solid line."""
        return DASHES[(self.number + self.number // len(COLORS)) % len(DASHES)]

    @property
    def marker(self) -> tuple[str, str]:
        """Name of the marker for Plotly, and for matplotlib."""
        return MARKERS[(self.number + self.number // len(COLORS)) % len(MARKERS)]
