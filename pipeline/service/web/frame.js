// A frame on a picture, in its pixels: moved, sized and held within it.

const SMALLEST = 1;

const within = (value, low, high) => Math.min(high, Math.max(low, Math.round(value)));

// Whole pixels, inside the picture, and not empty.
export function held(frame, whole) {
  const width = within(frame.width, SMALLEST, whole.width);
  const height = within(frame.height, SMALLEST, whole.height);
  return {
    x: within(frame.x, 0, whole.width - width), y: within(frame.y, 0, whole.height - height), width, height,
  };
}

export const wholeOf = ({ width, height }) => ({ x: 0, y: 0, width, height });

export const isWhole = (frame, whole) => frame.width === whole.width && frame.height === whole.height;

// Which part of the frame lies under a point: edges -1, 0 or 1 each way, `move` within, null beside it.
export function gripAt(frame, x, y, reach) {
  const side = (at, low, length) => {
    if (at < low - reach || at > low + length + reach) return null;
    // on a small frame the nearer edge
    const [first, last] = [Math.abs(at - low), Math.abs(at - low - length)];
    if (Math.min(first, last) > reach) return 0;
    return first < last ? -1 : 1;
  };
  const [across, down] = [side(x, frame.x, frame.width), side(y, frame.y, frame.height)];
  if (across === null || down === null) return null;
  return across === 0 && down === 0 ? "move" : [across, down];
}

// The frame after its grip was drawn from one point to another.
export function drawn(frame, grip, from, to, whole) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  if (grip === "move") return held({ ...frame, x: frame.x + dx, y: frame.y + dy }, whole);
  if (grip === null) return spanned(from.x, from.y, to.x, to.y, whole);
  const [across, down] = grip;
  const left = frame.x + (across < 0 ? dx : 0), right = frame.x + frame.width + (across > 0 ? dx : 0);
  const top = frame.y + (down < 0 ? dy : 0), bottom = frame.y + frame.height + (down > 0 ? dy : 0);
  return spanned(left, top, right, bottom, whole);
}

// Between two corners, whichever way round.
function spanned(x0, y0, x1, y1, whole) {
  const [left, right] = [x0, x1].map((x) => within(x, 0, whole.width)).sort((a, b) => a - b);
  const [top, bottom] = [y0, y1].map((y) => within(y, 0, whole.height)).sort((a, b) => a - b);
  return held({ x: left, y: top, width: right - left, height: bottom - top }, whole);
}

// By an arrow key: a hundredth of the picture; with Shift the far edges move.
export function stepped(frame, key, isSizing, whole) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  if (!by) return null;
  const dx = by[0] * Math.ceil(whole.width / 100), dy = by[1] * Math.ceil(whole.height / 100);
  if (!isSizing) return held({ ...frame, x: frame.x + dx, y: frame.y + dy }, whole);
  const width = Math.min(frame.width + dx, whole.width - frame.x);
  const height = Math.min(frame.height + dy, whole.height - frame.y);
  return held({ ...frame, width, height }, whole);
}
