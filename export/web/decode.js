// Files as samples at the model's rate.
import { Problem } from "./problem.js";
import { readWav } from "./wav.js";

/**
 * @param file a File
 * @param rate of the model, in Hz
 * @returns [Float32Array], one per channel. A WAV at that rate is taken to the bit; all else the browser decodes and
 *   resamples.
 * @throws Problem
 */
export async function decode(file, rate) {
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Problem(`${file.name} cannot be read. Is it a folder, or gone?`);
  }
  if (!bytes.byteLength) throw new Problem(`${file.name} is empty.`);
  let channels;
  try {
    const wav = readWav(bytes);
    channels = wav?.rate === rate ? wav.channels : await resampled(bytes, rate);
  } catch (error) {
    if (error instanceof Problem) throw new Problem(`${file.name}: ${error.message}.`);
    throw new Problem(`${file.name} is not audio that this browser reads.`);
  }
  if (!channels[0].length) throw new Problem(`${file.name} has no samples.`);
  // The model would remember what is not a number for ever.
  if (!channels.every((samples) => samples.every(Number.isFinite))) {
    throw new Problem(`${file.name} is damaged: not all its samples are numbers.`);
  }
  return channels;
}

async function resampled(bytes, rate) {
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  return Array.from({ length: audio.numberOfChannels }, (_, channel) => audio.getChannelData(channel).slice());
}
