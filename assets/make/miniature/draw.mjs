// Draws people: node draw.mjs OUT FIRST COUNT  ->  OUT.rgb (COUNT x variants x 128 x 128 x 3 bytes) and OUT.json (look codes).
// The four style variants are drawn plainly here; filters.py paints them afterwards.
import fs from 'node:fs';
import { Resvg } from '@resvg/resvg-js';
import { faceToSvgString } from 'facesjs';
import svgs from './node_modules/facesjs/build/svgs.js';
import * as outfits from './outfits.mjs';
import { lookCode, person, random } from './people.mjs';

Object.assign(svgs.jersey, outfits.jerseys);
export const VARIANTS = ['plain0', 'plain1', 'plain2', 'smile', 'glasses', 'hat', 'oil', 'watercolor', 'pencil', 'fauvism', 'wizard', 'chef', 'nurse', 'police'];
const SIZE = 128;
const VIEW = '-60 40 520 520';
const ROLE_JERSEY = { wizard: 'robe', chef: 'jacket', nurse: 'scrubs', police: 'uniform' };
const SHIRTS = ['#b23a3a', '#2f6db0', '#3b8a57', '#e0a030', '#7c4f9e', '#f2f2f2', '#333a45', '#d77a9b'];

function background(r, variant) {
  const role = outfits.ROLE_SCENE[variant];
  if (role && r() < 0.6) return outfits.scenes[role];
  if (!role && r() < 0.25) return outfits.scenes[outfits.FREE_SCENES[Math.floor(r() * 3)]];
  return outfits.plainBackground(outfits.PLAIN[Math.floor(r() * outfits.PLAIN.length)]);
}

/** The SVG of one picture. Same arguments, same picture. */
export function picture(p, variant) {
  const r = random(Math.imul(p.id + 1, 977) + VARIANTS.indexOf(variant) * 7919);
  for (let i = 0; i < 4; i++) r();
  const face = structuredClone(p.face); // facesjs changes the face it draws
  const back = background(r, variant);
  face.teamColors = [SHIRTS[Math.floor(r() * SHIRTS.length)], '#ffffff', '#222222'];
  if (ROLE_JERSEY[variant]) face.jersey.id = ROLE_JERSEY[variant];
  if (variant === 'smile') face.mouth.id = 'smile4';
  if (variant === 'glasses') face.glasses.id = 'glasses2-black';
  const hat = variant === 'hat' ? outfits.hats.fedora : outfits.hats[variant];
  const colour = outfits.hatColours[Math.floor(r() * outfits.hatColours.length)];
  const drawn = faceToSvgString(face).replace(/<svg[^>]*>/, '').replace(/<\/svg>\s*$/, '');
  const clip = hat?.cut ? `<clipPath id="under"><rect x="-100" y="${hat.cut}" width="600" height="600"/></clipPath>` : '';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${SIZE}" height="${SIZE}" viewBox="${VIEW}">${clip}${back}` +
    `<g${clip ? ' clip-path="url(#under)"' : ''}>${drawn}</g>${hat ? hat.svg(colour) : ''}</svg>`;
}

export function raster(svg) {
  const rgba = new Resvg(svg, { font: { loadSystemFonts: false }, logLevel: 'off' }).render().pixels;
  const rgb = Buffer.alloc(SIZE * SIZE * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) { rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2]; }
  return rgb;
}

function main([out, first, count]) {
  const file = fs.openSync(out + '.rgb.part', 'w');
  const codes = [];
  for (let id = Number(first); id < Number(first) + Number(count); id++) {
    const p = person(id);
    codes.push(lookCode(p));
    for (const v of VARIANTS) fs.writeSync(file, raster(picture(p, v)));
  }
  fs.closeSync(file);
  fs.writeFileSync(out + '.json', JSON.stringify({ first: Number(first), variants: VARIANTS, codes }));
  fs.renameSync(out + '.rgb.part', out + '.rgb'); // complete only from here on: a stopped run is drawn again
}
if (process.argv[1]?.endsWith('draw.mjs')) main(process.argv.slice(2));
