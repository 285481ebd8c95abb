// Digests of files, off the page's thread. In: {file}. Out: {done} in bytes, then {sha256}, or {error}.

import {Sha256} from './sha256.js';

const SLICE_BYTES = 4 << 20;

onmessage = async ({data: {file}}) => {
  try {
    const digest = new Sha256();
    for (let at = 0; at < file.size; at += SLICE_BYTES) {
      const slice = await file.slice(at, at + SLICE_BYTES).arrayBuffer();
      digest.update(new Uint8Array(slice));
      postMessage({done: at + slice.byteLength});
    }
    postMessage({sha256: digest.hex()});
  } catch (error) {
    // The file is gone, was changed, or may not be read.
    postMessage({error: `${file.name}: ${error.message}`});
  }
};
