// The result of a job: its tracks, to listen to, to look at and to keep.
import { blob, Problem } from "./api.js";
import { button, clock, element, fail, put, say, show } from "./dom.js";
import { download, stemOf } from "./download.js";
import { contextAt, decoded, Player } from "./player.js";
import { titleOfStem } from "./titles.js";
import { trackRow } from "./tracks.js";
import { peakOf } from "./waves.js";
import { wavOf } from "./wav.js";

const MOST_BYTES = 1.5e9; // of decoded audio: more is for downloads only

/** What is shown at #result. */
export class Results {
  #rows = [];
  #view = "wave";
  #frame = null;
  player = null;

  constructor() {
    element("play").onclick = () => this.player?.toggle();
    element("compare").onclick = () => this.player?.compare();
    element("position").oninput = ({ target }) => this.player?.seek(Number(target.value));
    element("download-all").onclick = () => this.#kept(() => this.#downloadAll());
    element("download-mix").onclick = () => this.#kept(() => this.#downloadMix());
    for (const choice of document.getElementsByName("view")) {
      choice.onchange = () => this.#look(choice.value);
    }
    addEventListener("theme", () => this.#rows.forEach((row) => row.wave?.recolour()));
  }

  /**
   * @param job that is done
   * @param input Blob of what was separated
   */
  async open(job, input) {
    await this.close();
    this.job = job;
    element("result-title").textContent = job.input?.name ?? "Result";
    const stems = await Promise.all(job.outputs.map(async (output) => ({ ...output, blob: await blob(output.url) })));
    const tracks = await this.#decoded(stems, input);
    show("result", true);
    show("player", tracks !== null);
    const list = element("tracks");
    if (!tracks) return this.#namesOnly(list, stems);
    this.player = new Player(this.context, tracks);
    this.player.addEventListener("state", () => this.#update());
    const peak = peakOf(tracks.map(({ buffer }) => buffer));
    this.#rows = this.player.tracks.map((track) => trackRow(list, this.player, track, peak, () => this.#save(track)));
    element("position").max = this.player.duration;
    this.#look(this.#view);
    this.#update();
  }

  async close() {
    cancelAnimationFrame(this.#frame);
    this.#rows.forEach((row) => row.wave?.remove());
    this.#rows = [];
    await this.player?.close();
    [this.player, this.job] = [null, null];
    element("tracks").replaceChildren();
    element("result-note").textContent = "";
    show("result", false);
  }

  /** Buffers of the mixture, where the browser reads it, and of all stems; null for too much of it. */
  async #decoded(stems, input) {
    const { seconds, sample_rate: rate, channels } = this.job.input;
    const note = element("result-note");
    if (seconds * rate * channels * 4 * (stems.length + 1) > MOST_BYTES) {
      note.textContent = "The recording is too long to be played here: download the tracks.";
      return null;
    }
    this.context = contextAt(rate);
    const at = this.context.sampleRate;
    const tracks = [];
    try {
      const mixture = await decoded(input, at);
      tracks.push({ label: "", title: "Mixture", mixture: true, buffer: mixture });
    } catch {
      note.textContent = "This browser cannot play the recording itself, so there is nothing to compare with.";
    }
    for (const stem of stems) {
      const name = titleOfStem(stem.label, this.job.prompts);
      tracks.push({ ...stem, title: name, mixture: false, buffer: await decoded(stem.blob, at) });
    }
    element("compare").disabled = !tracks[0].mixture;
    return tracks;
  }

  #namesOnly(list, stems) {
    for (const stem of stems) {
      const row = put(list, "li", { className: "track" });
      const head = put(row, "div", { className: "track-head" });
      const name = titleOfStem(stem.label, this.job.prompts);
      put(head, "h3", { textContent: name });
      button(head, "Download", () => this.#save(stem), { ariaLabel: `Download ${name}` });
    }
  }

  #look(view) {
    this.#view = view;
    this.#rows.forEach((row) => row.wave.look(view));
  }

  #update() {
    const { player } = this;
    const play = element("play");
    play.textContent = player.playing ? "Pause" : "Play";
    play.dataset.state = player.playing ? "playing" : "paused";
    const compare = element("compare");
    compare.ariaPressed = String(player.comparing);
    element("tracks").classList.toggle("comparing", player.comparing);
    this.#rows.forEach((row) => row.update());
    this.#follow();
  }

  /** Moves what shows the position, for as long as it moves. */
  #follow() {
    cancelAnimationFrame(this.#frame);
    const { player } = this;
    if (!player) return;
    const [now, slider] = [player.position, element("position")];
    slider.value = now;
    slider.setAttribute("aria-valuetext", `${clock(now)} of ${clock(player.duration)}`);
    element("time").textContent = `${clock(now)} / ${clock(player.duration)}`;
    this.#rows.forEach((row) => row.wave.at(now));
    if (player.playing) this.#frame = requestAnimationFrame(() => this.#follow());
  }

  /** Mutes a track, or with a number solos the stem of that number, from 1. */
  solo(number) {
    const row = this.#rows.filter(({ track }) => !track.mixture)[number - 1];
    row?.solo();
  }

  muteFocused() {
    this.#rows.find((row) => row.item.contains(document.activeElement))?.mute();
  }

  async #kept(work) {
    try {
      await work();
    } catch (error) {
      fail(error);
    }
  }

  get #name() {
    return stemOf(this.job.input?.name ?? "recording");
  }

  #save(track) {
    const ending = track.media_type ? endingOf(track.media_type) : "wav";
    download(track.blob, `${this.#name} - ${track.title}.${ending}`);
  }

  async #downloadAll() {
    say("The tracks are being packed.");
    download(await blob(`/v1/jobs/${this.job.id}/archive`), `${this.#name}.zip`);
    say("All tracks are in your downloads.");
  }

  async #downloadMix() {
    if (!this.player) throw new Problem("There is nothing to be heard yet.");
    const mix = await this.player.render();
    const channels = [...Array(mix.numberOfChannels).keys()].map((at) => mix.getChannelData(at));
    download(wavOf(channels, mix.sampleRate), `${this.#name} - mix.wav`);
    say("What you hear is in your downloads.");
  }
}

const ENDINGS = { "audio/flac": "flac", "audio/x-flac": "flac", "audio/ogg": "ogg", "audio/mpeg": "mp3" };
const endingOf = (type) => ENDINGS[type.split(";")[0]] ?? "wav";
