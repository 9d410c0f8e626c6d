// Waveforms and spectrograms, drawn by wavesurfer.js; it plays nothing.
import WaveSurfer from "../vendor/wavesurfer.esm.js";
import Spectrogram from "../vendor/wavesurfer-spectrogram.esm.js";

const HEIGHT = 72; // the content policy of the page has the hash of the style sheet for it: web.py
const FFT = 1024;
// From the background over the accent to light, for both themes: dark is silence.
const STOPS = [[0, 10, 14, 24], [0.35, 27, 66, 132], [0.65, 46, 144, 190], [0.85, 160, 220, 180], [1, 255, 250, 210]];

/** The drawing of one track. */
export class Wave {
  #waves;
  #spectrogram = null;
  #place;

  /**
   * @param place an element
   * @param buffer AudioBuffer
   * @param peak of the loudest track: all are drawn on one scale
   * @param sought called with a position in seconds
   */
  constructor(place, buffer, peak, mixture, sought) {
    this.#place = place;
    this.mixture = mixture;
    const drawn = [...Array(Math.min(2, buffer.numberOfChannels)).keys()];
    const channels = drawn.map((at) => within(buffer.getChannelData(at)));
    this.#waves = WaveSurfer.create({
      container: place, height: HEIGHT, peaks: channels, duration: buffer.duration, barHeight: 0.98 / peak,
      cursorWidth: 2, hideScrollbar: true, dragToSeek: { debounceTime: 0 }, interact: true, ...this.#colours(),
    });
    this.#waves.on("interaction", sought);
  }

  #colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const kind = this.mixture ? "mixture" : "stem";
    return { waveColor: of(`--wave-${kind}`), progressColor: of(`--wave-${kind}-played`), cursorColor: "#fff" };
  }

  /** Draws again in the colours of the theme. */
  recolour() {
    this.#waves.setOptions(this.#colours());
  }

  /** view: "wave", "spectrogram" or "both". */
  look(view) {
    this.#place.dataset.view = view;
    if (view === "wave") {
      this.#spectrogram?.destroy();
      this.#spectrogram = null;
    }
    if (view === "wave" || this.#spectrogram) return;
    this.#spectrogram = Spectrogram.create({
      height: 96, fftSamples: FFT, labels: false, scale: "mel", gainDB: 12, rangeDB: 75, colorMap: colours(),
      windowFunc: "hann", frequencyMin: 0,
    });
    this.#waves.registerPlugin(this.#spectrogram);
  }

  at(seconds) {
    this.#waves.setTime(seconds);
  }

  remove() {
    this.#waves.destroy();
  }
}

/** wavesurfer.js would scale samples beyond full scale where they are, and they are what is played. */
function within(samples) {
  if (!samples.some((sample) => sample > 1 || sample < -1)) return samples;
  return samples.map((sample) => Math.min(1, Math.max(-1, sample)));
}

/** The largest absolute sample of all tracks, and never nothing. */
export function peakOf(buffers) {
  let most = 1e-3;
  for (const buffer of buffers) {
    for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
      for (const sample of buffer.getChannelData(channel)) most = Math.max(most, Math.abs(sample));
    }
  }
  return Math.min(1, most);
}

function colours() {
  return Array.from({ length: 256 }, (_, i) => {
    const at = i / 255;
    const next = Math.max(1, STOPS.findIndex(([stop]) => stop >= at));
    const [a, b] = [STOPS[next - 1], STOPS[next]];
    const part = (at - a[0]) / (b[0] - a[0]);
    return [1, 2, 3].map((c) => (a[c] + (b[c] - a[c]) * part) / 255).concat(1);
  });
}
