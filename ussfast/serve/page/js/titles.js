// What prompts are called for people.

const TITLES = {
  speech: ["Speech", "voices that talk"],
  sfx: ["Sound effect", "one single sound: a bark, a door, a glass"],
  sfxbg: ["Background", "wind, rain, traffic, a crowd"],
  drums: ["Drums", "drums and percussion"],
  bass: ["Bass", "the bass of a song"],
  vocals: ["Singing", "the voices of a song"],
  other: ["Other instruments", "of a song, all but drums, bass and singing"],
  musicbg: ["Music", "music as a whole"],
  residual: ["The rest", "what no other track took"],
};

/** Sets for a first try, of which those are offered whose prompts the model knows. */
export const SETS = [
  ["Voice and background", ["speech", "sfxbg"]],
  ["Film: voices, music, effects", ["speech", "musicbg", "sfxbg"]],
  ["Song: four tracks", ["vocals", "drums", "bass", "other"]],
];

/** A prompt's name in plain words; users' own prompts are called as they called them. */
export const title = (name) => TITLES[name]?.[0] ?? name;

/** What it stands for, or nothing. */
export const hint = (name) => TITLES[name]?.[1] ?? "";

/** Of a stem: "sfx-2" is the second of several that were asked for by one name. */
export function titleOfStem(label, prompts = []) {
  const [, name, number] = /^(.*)-(\d+)$/.exec(label) ?? [];
  const repeated = name && prompts.filter((prompt) => prompt === name).length > 1;
  return repeated ? `${title(name)} ${number}` : title(label);
}
