// All tracks of a result on one clock: every source starts at the same sample, so they stay together.

const AHEAD_S = 0.03; // sources are told a little before they start, so that all of them make it
const RAMP_S = 0.008; // gains move there without a click

/**
 * How loud each track is in what is heard.
 * @param mixing {tracks: [{mixture, gain, solo, mute}], comparing}
 * @returns [number], one per track
 */
export function loudness({ tracks, comparing }) {
  const solo = tracks.some((track) => track.solo);
  return tracks.map((track) => {
    if (track.mixture) return comparing ? track.gain : 0;
    if (comparing || track.mute || (solo && !track.solo)) return 0;
    return track.gain;
  });
}

/**
 * Events: "state" when something starts, stops or another mix is heard; positions are asked for.
 * tracks: [{label, mixture, buffer, gain, solo, mute}]; comparing: the mixture is heard instead of the stems.
 */
export class Player extends EventTarget {
  #voice = null;
  #offset = 0;

  /** All buffers have the rate of the context, and come from one recording. */
  constructor(context, tracks) {
    super();
    this.context = context;
    this.tracks = tracks.map((track) => ({ gain: 1, solo: false, mute: false, ...track }));
    this.comparing = false;
    this.duration = Math.max(...tracks.map(({ buffer }) => buffer.duration));
    this.output = new GainNode(context);
    this.output.connect(context.destination);
  }

  get playing() {
    return this.#voice !== null;
  }

  /** In seconds. */
  get position() {
    if (!this.#voice) return this.#offset;
    const passed = this.context.currentTime - this.#voice.when;
    return Math.min(this.duration, this.#voice.offset + Math.max(0, passed));
  }

  /** To be called from a click first, or browsers keep the sound off. */
  async play() {
    if (this.playing) return;
    await this.context.resume();
    if (this.#offset >= this.duration - 1e-3) this.#offset = 0;
    this.#start();
    this.#changed();
  }

  pause() {
    if (!this.playing) return;
    this.#offset = this.position;
    this.#stop();
    this.#changed();
  }

  toggle() {
    return this.playing ? this.pause() : this.play();
  }

  /** All tracks at once; to whole samples. */
  seek(seconds) {
    const rate = this.context.sampleRate;
    const place = Math.round(Math.min(this.duration, Math.max(0, seconds)) * rate) / rate;
    const playing = this.playing;
    if (playing) this.#stop();
    this.#offset = place;
    if (playing && place < this.duration) this.#start();
    this.#changed();
  }

  /** Changes {gain, solo, mute} of a track, while it is heard, too. */
  set(track, changes) {
    Object.assign(track, changes);
    this.#mix();
    this.#changed();
  }

  /** Between the mixture and what the stems make together. */
  compare(on = !this.comparing) {
    this.comparing = on;
    this.#mix();
    this.#changed();
  }

  /** What is heard, all of it, as an AudioBuffer. */
  render() {
    const { length, sampleRate, numberOfChannels } = this.tracks[0].buffer;
    const context = new OfflineAudioContext(numberOfChannels, length, sampleRate);
    voice(context, context.destination, this.tracks, loudness(this), 0, 0);
    return context.startRendering();
  }

  /** Gives the audio device back. */
  close() {
    this.#stop();
    return this.context.close();
  }

  #start() {
    const { context, output, tracks } = this;
    this.#voice = voice(context, output, tracks, loudness(this), context.currentTime + AHEAD_S, this.#offset);
    const started = this.#voice;
    const longest = started.sources.reduce((a, b) => (a.buffer.length >= b.buffer.length ? a : b));
    longest.onended = () => {
      if (this.#voice !== started) return;
      this.#stop();
      this.#offset = this.duration;
      this.#changed();
    };
  }

  #stop() {
    for (const source of this.#voice?.sources ?? []) source.stop();
    this.#voice?.gains.forEach((gain) => gain.disconnect());
    this.#voice = null;
  }

  #mix() {
    loudness(this).forEach((loud, at) => {
      const gain = this.#voice?.gains[at].gain;
      gain?.setTargetAtTime(loud, this.context.currentTime, RAMP_S);
    });
  }

  #changed() {
    this.dispatchEvent(new Event("state"));
  }
}

/** One source and one gain per track, started together. */
function voice(context, output, tracks, gains, when, offset) {
  const made = gains.map((gain) => new GainNode(context, { gain }));
  const sources = tracks.map(({ buffer }, at) => {
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(made[at]).connect(output);
    source.start(when, offset);
    return source;
  });
  return { sources, gains: made, when, offset };
}

/**
 * Audio of any file that the browser reads, at this rate.
 * @throws Problem-like Error where it does not read it
 */
export async function decoded(content, rate) {
  return new OfflineAudioContext(1, 1, rate).decodeAudioData(await content.arrayBuffer());
}

/** A context of this rate, or of the browser's own where it cannot. */
export function contextAt(rate) {
  try {
    return new AudioContext({ sampleRate: rate });
  } catch {
    return new AudioContext();
  }
}
