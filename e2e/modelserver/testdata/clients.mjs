// Calls a gateway with the clients of OpenAI and Anthropic and prints what they understood.
// Usage: node clients.mjs FOLDER-OF-NODE_MODULES URL KEY
import { createRequire } from "node:module";

const [modules, url, apiKey] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { default: OpenAI } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");

const openai = new OpenAI({ baseURL: url + "/v1", apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const got = {};
const messages = [{ role: "user", content: "Hello there, what is a part?" }];
const model = "m", max_tokens = 4;

const error = async (call) => {
  try {
    await call();
    return "no error";
  } catch (e) {
    return e;
  }
};
const said = (e, ...more) => [e.status, e.constructor.name, ...more].filter((v) => v !== undefined).join(" ");

got["models"] = (await openai.models.list()).data.map((m) => m.id).sort().join();
got["model"] = (await openai.models.retrieve("m")).id;

const { data: chat, response } = await openai.chat.completions.create({ model, messages, max_tokens }).withResponse();
got["chat"] = chat.choices[0].message.content;
got["chat usage"] = chat.usage.completion_tokens;
got["chat limit"] = response.headers.get("x-ratelimit-limit-tokens");

got["chat streamed"] = "";
const stream = await openai.chat.completions.create({ model, messages, max_tokens, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  got["chat streamed"] += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) got["chat stream usage"] = chunk.usage.completion_tokens;
}
got["completion"] = (await openai.completions.create({ model, prompt: "Hello", max_tokens })).choices[0].text;
got["alias"] = (await openai.chat.completions.create({ model: "gpt-x", messages, max_tokens })).choices[0].message.content;

const whole = await openai.responses.create({ model, input: "Hello", instructions: "Be brief.", max_output_tokens: max_tokens });
got["response"] = whole.output_text;
got["response usage"] = whole.usage.output_tokens;
const run = openai.responses.stream({ model, input: "Hello", max_output_tokens: max_tokens });
got["response streamed"] = (await run.finalResponse()).output_text;

const embedded = await openai.embeddings.create({ model, input: ["one", "two"] });
got["embeddings"] = embedded.data.length;
got["embedding"] = embedded.data[1].embedding[1];

const message = await anthropic.messages.create({ model, max_tokens, system: "Be brief.", messages });
got["message"] = message.content[0].text;
got["message usage"] = message.usage.output_tokens;
got["message streamed"] = await anthropic.messages.stream({ model, max_tokens, messages }).finalText();

let e = await error(() => openai.chat.completions.create({ model: "none", messages }));
got["no such model"] = said(e, e.code);
e = await error(() => openai.chat.completions.create({ model, messages, max_tokens: 4000, prompt: 1, min_tokens: 4001 }));
got["too long"] = said(e);
// The tokens of this minute are not enough for two of these.
const long = { model, prompt: "word ".repeat(2500), max_tokens: 1 };
await openai.completions.create(long);
e = await error(() => openai.completions.create(long));
got["over the limit"] = said(e, e.code, e.type);
e = await error(() => anthropic.messages.create({ model, max_tokens, messages: [{ role: "user", content: "word ".repeat(2500) }] }));
got["over, Anthropic"] = said(e, e.error?.error?.type);
process.stdout.write(JSON.stringify(got));
