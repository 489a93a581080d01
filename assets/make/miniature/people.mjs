// Who lives in the miniature's world: a person is a choice of facesjs parts and a few numbers,
// drawn from a seeded generator, so that person n is the same on every machine.

/** mulberry32: 32-bit state, uniform in [0, 1). */
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Parts kept: those that look different from each other at 128 pixels. */
export const PARTS = {
  hair: ['afro', 'curly', 'curly3', 'crop', 'dreads', 'emo', 'hair', 'high', 'longHair', 'messy-short', 'messy', 'middle-part', 'shaggy2', 'short-bald',
    'short-fade', 'short', 'shortBangs', 'spike', 'bald', 'cornrows', 'female1', 'female10', 'female11', 'female12', 'female2', 'female3', 'female4',
    'female5', 'female6', 'female7', 'female8', 'female9'],
  hairBg: ['none', 'female3', 'female4', 'female5', 'longHair'],
  eye: ['eye1', 'eye10', 'eye12', 'eye15', 'eye16', 'eye3', 'eye5', 'eye7', 'eye8', 'female1', 'female3', 'female4', 'female7', 'female10', 'female12', 'female14'],
  eyebrow: ['eyebrow1', 'eyebrow10', 'eyebrow14', 'eyebrow20', 'eyebrow3', 'eyebrow8', 'female1', 'female4', 'female9', 'female8'],
  nose: ['honker', 'nose1', 'nose11', 'nose12', 'nose14', 'nose2', 'nose3', 'nose6', 'nose7', 'nose8', 'small', 'pinocchio'],
  mouth: ['angry', 'closed', 'mouth', 'mouth4', 'mouth7', 'side', 'smile-closed', 'smile2', 'smile3', 'straight'],
  head: ['female1', 'female2', 'head1', 'head10', 'head15', 'head16', 'head17', 'head18', 'head4', 'head6', 'head9'],
  facialHair: ['none', 'beard1', 'beard3', 'beard4', 'beard-point', 'fullgoatee2', 'goatee1-stache', 'goatee4', 'harley1', 'honest-abe', 'logan',
    'loganGoatee3soulStache', 'mustache1', 'mustache1SB1', 'mutton', 'neckbeard2', 'sideburns1', 'wilt'],
  miscLine: ['none', 'freckles1', 'blush', 'chin1', 'forehead2'],
  eyeLine: ['none', 'line1', 'line4'],
  smileLine: ['none', 'line1', 'line3'],
  ear: ['ear1', 'ear2', 'ear3'],
};
const MALE_HAIR = 20;
const SKIN = [[242, 214, 203], [221, 183, 160], [254, 218, 199], [234, 182, 134], [187, 135, 111], [166, 115, 88], [173, 100, 83], [116, 69, 61], [92, 57, 55]];
const HAIR = [[34, 30, 28], [61, 35, 20], [90, 56, 37], [140, 90, 50], [204, 153, 102], [181, 82, 57], [233, 198, 123], [150, 150, 152], [235, 232, 224], [60, 90, 170], [200, 70, 130], [70, 140, 90]];
const HAIR_WEIGHT = [5, 4, 4, 3, 3, 3, 4, 2, 2, 1, 1, 1];

const hex = c => '#' + c.map(v => Math.max(0, Math.min(255, Math.round(v))).toString(16).padStart(2, '0')).join('');

function weighted(r, weights) {
  let x = r() * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < weights.length; i++) if ((x -= weights[i]) < 0) return i;
  return weights.length - 1;
}

/** Person `id`: a facesjs face (plain, no hat, no glasses) and its two colours as numbers. */
export function person(id) {
  const r = random(0x9e3779b1 ^ Math.imul(id + 1, 2654435761));
  for (let i = 0; i < 4; i++) r();
  const pick = a => a[Math.floor(r() * a.length)];
  const range = (lo, hi) => Math.round((lo + (hi - lo) * r()) * 100) / 100;
  const female = r() < 0.45;
  const skin = pick(SKIN).map(v => v + (r() - 0.5) * 14);
  const hairColour = HAIR[weighted(r, HAIR_WEIGHT)].map(v => v + (r() - 0.5) * 16);
  const hair = female ? pick([...PARTS.hair.slice(MALE_HAIR), 'curly3', 'afro']) : pick(PARTS.hair.slice(0, MALE_HAIR));
  const or = (p, a) => (r() < p ? 'none' : pick(a.slice(1)));
  const face = {
    fatness: range(0, female ? 0.6 : 1), teamColors: ['#888888', '#888888', '#888888'],
    hairBg: { id: female ? or(0.5, PARTS.hairBg) : 'none' },
    body: { id: 'body', color: hex(skin), size: range(0.88, 1.05) }, jersey: { id: 'tee' },
    ear: { id: pick(PARTS.ear), size: range(0.5, 1.5) },
    head: { id: pick(PARTS.head), shave: 'rgba(0,0,0,0)' },
    eyeLine: { id: or(0.6, PARTS.eyeLine) }, smileLine: { id: or(0.6, PARTS.smileLine), size: 1 }, miscLine: { id: or(0.5, PARTS.miscLine) },
    facialHair: { id: female ? 'none' : or(0.35, PARTS.facialHair) },
    eye: { id: pick(PARTS.eye), angle: range(-10, 15) }, eyebrow: { id: pick(PARTS.eyebrow), angle: range(-15, 20) },
    hair: { id: hair, color: hex(hairColour), flip: r() < 0.5 },
    mouth: { id: pick(PARTS.mouth), flip: false }, nose: { id: pick(PARTS.nose), flip: false, size: range(0.6, 1.25) },
    glasses: { id: 'none' }, accessories: { id: 'none' },
  };
  return { id, face, skin, hairColour };
}

/** The look code: one-hot part choices, then numbers; the same order for everybody. */
export function lookCode(p) {
  const f = p.face, code = [];
  for (const [name, ids] of Object.entries(PARTS)) for (const id of ids) code.push(f[name].id === id ? 1 : 0);
  code.push(f.hair.flip ? 1 : 0, f.fatness, f.body.size, f.ear.size, f.eye.angle / 10, f.eyebrow.angle / 10, f.nose.size);
  for (const c of [...p.skin, ...p.hairColour]) code.push(c / 255);
  return code;
}
