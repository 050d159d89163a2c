// Serves a GGUF model by llama.cpp on the CPU, as an OpenAI-like server: several
// answers at once, batched by node-llama-cpp. It answers POST /v1/chat/completions,
// streamed or in one piece, and GET /health.
//
//   node server.mjs FILE PORT SEQUENCES THREADS
import { createServer } from "node:http";
import { getLlama } from "node-llama-cpp";

const [file, port, sequences, threads] = process.argv.slice(2);
const perSequence = 4096; // tokens of the cache
const firstByte = 3; // of the vocabulary, see model.mjs

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({
  sequences: Number(sequences), contextSize: perSequence, batchSize: 512, threads: Number(threads),
});
const free = Array.from({ length: Number(sequences) }, () => context.getSequence());
const waiting = [];

const take = () => (free.length > 0 ? Promise.resolve(free.pop()) : new Promise((got) => waiting.push(got)));
const give = (sequence) => (waiting.length > 0 ? waiting.shift()(sequence) : free.push(sequence));

async function answer(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.parse(Buffer.concat(chunks));
  const text = body.messages.map((m) => `${m.role}: ${m.content}\n`).join("");
  const prompt = [...Buffer.from(text)].map((b) => firstByte + b);
  const most = body.max_tokens ?? 64;
  if (prompt.length + most > perSequence) {
    response.writeHead(400, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message: `at most ${perSequence} tokens of prompt and answer`, type: "invalid_request_error" } }));
    return;
  }
  let gone = false;
  response.on("close", () => { gone = true; });
  const sequence = await take();
  try {
    await sequence.clearHistory();
    let made = 0;
    // The model has no sense of an end: its answer is as long as it may be.
    for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      if (gone) return;
      made++;
      if (body.stream) event(response, { choices: [{ index: 0, delta: { content: `t${token} ` }, finish_reason: null }] });
      if (made >= most) break;
    }
    const usage = { prompt_tokens: prompt.length, completion_tokens: made, total_tokens: prompt.length + made };
    if (!body.stream) {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ object: "chat.completion", choices: [{ index: 0, message: { role: "assistant", content: "t".repeat(made) }, finish_reason: "length" }], usage }));
      return;
    }
    event(response, { choices: [{ index: 0, delta: {}, finish_reason: "length" }] });
    event(response, { choices: [], usage });
    response.end("data: [DONE]\n\n");
  } finally {
    give(sequence);
  }
}

function event(response, value) {
  if (!response.headersSent) response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", ...value })}\n\n`);
}

createServer((request, response) => {
  if (request.method === "GET" && request.url === "/health") return response.end("ok\n");
  if (request.method !== "POST" || request.url !== "/v1/chat/completions") {
    response.writeHead(404);
    return response.end();
  }
  answer(request, response).catch((e) => {
    if (!response.headersSent) response.writeHead(500);
    response.end(`${e.message}\n`);
  });
}).listen(Number(port), "127.0.0.1");
