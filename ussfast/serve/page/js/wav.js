// WAV files of float32.

/**
 * @param channels [Float32Array], all of one length
 * @returns Blob
 */
export function wavOf(channels, rate) {
  const [count, frames] = [channels.length, channels[0].length];
  const size = frames * count * 4;
  const view = new DataView(new ArrayBuffer(58));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, size + 50, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 18, true);
  view.setUint16(20, 3, true); // IEEE float
  view.setUint16(22, count, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * count * 4, true);
  view.setUint16(32, count * 4, true);
  view.setUint16(34, 32, true);
  text(38, "fact");
  view.setUint32(42, 4, true);
  view.setUint32(46, frames, true);
  text(50, "data");
  view.setUint32(54, size, true);
  const samples = new Float32Array(frames * count);
  channels.forEach((channel, at) => {
    for (let i = 0; i < frames; i++) samples[i * count + at] = channel[i];
  });
  return new Blob([view.buffer, samples], { type: "audio/wav" });
}
