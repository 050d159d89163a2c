// Writes a language model of random weights as a GGUF file, in the shape of Llama: what
// it says means nothing, and what it costs to run is real. A token is one byte.
//
//   node model.mjs FILE
import { closeSync, openSync, writeSync } from "node:fs";

const layers = 4, width = 256, hidden = 704, heads = 4, context = 8192, seed = 1;
const vocabulary = ["<unk>", "<s>", "</s>"];
for (let b = 0; b < 256; b++) vocabulary.push(`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);

// Types of values and of tensors, as the format numbers them.
const u32 = 4, i32 = 5, f32 = 6, string = 8, array = 9, tensorF32 = 0;
const alignment = 32;

const parts = [];
const put = (size, write) => { const b = Buffer.alloc(size); write(b); parts.push(b); };
const putU32 = (n) => put(4, (b) => b.writeUInt32LE(n));
const putU64 = (n) => put(8, (b) => b.writeBigUInt64LE(BigInt(n)));
const putText = (s) => { const b = Buffer.from(s); putU64(b.length); parts.push(b); };
const putScalar = {
  [u32]: putU32,
  [i32]: (n) => put(4, (b) => b.writeInt32LE(n)),
  [f32]: (n) => put(4, (b) => b.writeFloatLE(n)),
  [string]: putText,
};
const pair = (key, type, value) => () => { putText(key); putU32(type); putScalar[type](value); };
const list = (key, type, values) => () => {
  putText(key); putU32(array); putU32(type); putU64(values.length);
  values.forEach(putScalar[type]);
};

const metadata = [
  pair("general.architecture", string, "llama"),
  pair("general.name", string, "random"),
  pair("llama.context_length", u32, context),
  pair("llama.embedding_length", u32, width),
  pair("llama.block_count", u32, layers),
  pair("llama.feed_forward_length", u32, hidden),
  pair("llama.rope.dimension_count", u32, width / heads),
  pair("llama.attention.head_count", u32, heads),
  pair("llama.attention.head_count_kv", u32, heads),
  pair("llama.attention.layer_norm_rms_epsilon", f32, 1e-5),
  pair("tokenizer.ggml.model", string, "llama"),
  list("tokenizer.ggml.tokens", string, vocabulary),
  list("tokenizer.ggml.scores", f32, vocabulary.map(() => 0)),
  // Unknown, control and control, then bytes.
  list("tokenizer.ggml.token_type", i32, vocabulary.map((_, i) => [2, 3, 3][i] ?? 6)),
  pair("tokenizer.ggml.bos_token_id", u32, 1),
  pair("tokenizer.ggml.eos_token_id", u32, 2),
  pair("tokenizer.ggml.unknown_token_id", u32, 0),
];

const tensors = [["token_embd.weight", [width, vocabulary.length]], ["output_norm.weight", [width]], ["output.weight", [width, vocabulary.length]]];
for (let i = 0; i < layers; i++) {
  for (const [name, shape] of [
    ["attn_norm", [width]], ["attn_q", [width, width]], ["attn_k", [width, width]], ["attn_v", [width, width]],
    ["attn_output", [width, width]], ["ffn_norm", [width]], ["ffn_gate", [width, hidden]], ["ffn_up", [width, hidden]],
    ["ffn_down", [hidden, width]],
  ]) tensors.push([`blk.${i}.${name}.weight`, shape]);
}
const count = (shape) => shape.reduce((a, b) => a * b, 1);
const padded = (bytes) => Math.ceil(bytes / alignment) * alignment;

parts.push(Buffer.from("GGUF"));
putU32(3);
putU64(tensors.length);
putU64(metadata.length);
metadata.forEach((write) => write());
let offset = 0;
for (const [name, shape] of tensors) {
  putText(name);
  putU32(shape.length);
  shape.forEach(putU64);
  putU32(tensorF32);
  putU64(offset);
  offset += padded(4 * count(shape));
}

let state = seed;
const random = () => { // xorshift, -1 to 1
  state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
  return state / 2 ** 31;
};
const file = openSync(process.argv[2], "w");
const head = Buffer.concat(parts);
writeSync(file, head);
writeSync(file, Buffer.alloc(padded(head.length) - head.length));
for (const [name, shape] of tensors) {
  const values = new Float32Array(padded(4 * count(shape)) / 4);
  const scale = 1 / Math.sqrt(shape[0]);
  for (let i = 0; i < count(shape); i++) values[i] = name.includes("norm") ? 1 : random() * scale;
  writeSync(file, Buffer.from(values.buffer));
}
closeSync(file);
