// Clothes, hats and backgrounds drawn over a facesjs portrait, in its 400x600 coordinates.

const line = 'stroke="#000" stroke-width="6" stroke-linejoin="round"';
const body = neck => `M10 620s0-70 60-90 58-35 64-44 ${neck} 266 486c6 9 4 24 64 44s60 90 60 90z`;
const round = body('Q200 548');
const vneck = body('L200 565');

/** Extra facesjs jerseys: they take the jersey's place in its drawing order. */
export const jerseys = {
  tee: `<path fill="$[primary]" ${line} d="${round}"/>`,
  robe: `<path fill="#5b2a91" ${line} d="${vneck}"/><path fill="#f2c230" stroke="#000" stroke-width="4" d="M134 486L200 565L266 486L290 500L200 612L110 500z"/>`,
  jacket: `<path fill="#f7f7f2" ${line} d="${round}"/><path fill="#d8322c" ${line} d="M128 484Q200 560 272 484L262 528Q200 580 138 528z"/><path d="M100 560h.1" stroke="#222" stroke-width="16" stroke-linecap="round" fill="none"/><path d="M300 560h.1" stroke="#222" stroke-width="16" stroke-linecap="round" fill="none"/>`,
  scrubs: `<path fill="#35b5a4" ${line} d="${vneck}"/><path fill="none" stroke="#e9fffb" stroke-width="9" d="M126 492L200 582L274 492"/>`,
  uniform: `<path fill="#1f3a80" ${line} d="${round}"/><path fill="#15254f" stroke="#000" stroke-width="4" d="M128 484L200 530L272 484L250 556L200 536L150 556z"/><path fill="#f4c52c" stroke="#000" stroke-width="3" d="M318 532l8 14 16 3-11 12 2 16-15-7-15 7 2-16-11-12 16-3z"/>`,
};

const star = (x, y, r) => `<path fill="#f7d038" d="M${x} ${y - r}l${r * 0.3} ${r * 0.6} ${r * 0.7} ${r * 0.1} -${r * 0.5} ${r * 0.5} ${r * 0.1} ${r * 0.7} -${r * 0.6} -${r * 0.35} -${r * 0.6} ${r * 0.35} ${r * 0.1} -${r * 0.7} -${r * 0.5} -${r * 0.5} ${r * 0.7} -${r * 0.1}z"/>`;

/** A hat hides everything of the person above `cut`. */
export const hats = {
  wizard: { cut: 182, svg: () => `<path fill="#5b2a91" ${line} d="M70 185L175 60Q215 30 262 58Q228 62 240 90L330 185z"/>${star(170, 135, 20)}${star(235, 150, 16)}${star(215, 90, 14)}<path fill="#47207a" ${line} d="M-10 190Q200 135 410 190Q200 235 -10 190z"/>` },
  chef: { cut: 178, svg: () => `<path fill="#fdfdf8" ${line} d="M75 150C10 130 30 55 105 70C130 25 270 25 295 70C370 55 390 130 325 150z"/><path fill="none" stroke="#b9b9b0" stroke-width="5" d="M140 145Q132 110 120 95M200 145V85M260 145Q268 110 280 95"/><path fill="#ececdf" ${line} d="M72 142H328V196Q200 178 72 196z"/>` },
  nurse: { cut: null, svg: () => `<path fill="#fdfdfd" ${line} d="M95 172Q80 95 110 80Q200 55 290 80Q320 95 305 172Q200 135 95 172z"/><path fill="#df2230" d="M187 82h26v20h20v24h-20v20h-26v-20h-20v-24h20z"/>` },
  police: { cut: 180, svg: () => `<path fill="#1f3a80" ${line} d="M40 120Q60 60 200 58Q340 60 360 120L318 168H82z"/><path fill="#14224a" ${line} d="M76 150H324V192Q200 170 76 192z"/><path fill="#0b0b12" ${line} d="M72 190Q200 160 328 190Q318 224 200 214Q82 224 72 190z"/><path fill="#f4c52c" stroke="#000" stroke-width="4" d="M200 82l12 22 26 4-18 18 4 26-24-11-24 11 4-26-18-18 26-4z"/>` },
  fedora: { cut: 182, svg: c => `<path fill="${c}" ${line} d="M92 182C85 90 120 60 165 72Q200 92 235 72C280 60 315 90 308 182z"/><path fill="#1c1714" d="M90 150H310V186H90z"/><path fill="${c}" ${line} d="M5 182Q200 150 395 182Q385 222 200 206Q15 222 5 182z"/>` },
};
export const hatColours = ['#8a5a33', '#4b4b52', '#a8322a', '#3b6e45'];

export const PLAIN = ['#a9cfe0', '#f0d9a8', '#c9dfb4', '#e3bcc6', '#c6bfe2', '#d9d9d4', '#8fb4a9', '#e8b98f'];
const rect = (y, h, f) => `<rect x="-60" y="${y}" width="520" height="${h}" fill="${f}"/>`;
/** Simple scenes; the roles have their own. */
export const scenes = {
  field: rect(40, 520, '#a5d4ee') + '<path fill="#7fb55c" d="M-60 420Q100 330 260 400T460 380V560H-60z"/><circle cx="395" cy="105" r="38" fill="#fbe27a"/>',
  dusk: rect(40, 180, '#f3a76b') + rect(220, 150, '#e88a86') + rect(370, 190, '#8a6ba5'),
  room: rect(40, 520, '#e9dcc6') + '<rect x="-40" y="90" width="90" height="170" fill="#b7dcea" stroke="#8c6a45" stroke-width="10"/>' + rect(470, 90, '#a97f55'),
  night: rect(40, 520, '#2b2f6b') + star(20, 110, 18) + star(390, 90, 22) + star(410, 290, 16) + star(-10, 320, 16) + star(60, 230, 10),
  kitchen: rect(40, 520, '#d7e6e4') + '<path stroke="#9fbcb8" stroke-width="6" d="M-60 150H460M-60 290H460M-60 430H460M30 40V560M-30 40V560M370 40V560M430 40V560"/>',
  ward: rect(40, 520, '#dff1ee') + rect(330, 230, '#9fd4cb') + rect(322, 10, '#5fa59a'),
  city: rect(40, 520, '#bcc6d6') + '<path fill="#7d889c" d="M-60 560V190H10V280H60V560zM340 560V250H390V150H460V560z"/><path fill="#f6e7a2" d="M-40 220h20v24h-20zM-15 260h18v24h-18zM400 190h18v24h-18zM430 240h18v24h-18z"/>',
};
export const FREE_SCENES = ['field', 'dusk', 'room'];
export const ROLE_SCENE = { wizard: 'night', chef: 'kitchen', nurse: 'ward', police: 'city' };
export const plainBackground = c => rect(40, 520, c);
