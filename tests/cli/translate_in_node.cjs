// Greedy search with an exported model in onnxruntime-web (WASM): DIRECTORY IDS, where IDS is JSON
// of the source tokens of each line, the end of the sentence included. Prints JSON of the targets.
const ort = require("onnxruntime-web");
const fs = require("fs");
const path = require("path");

async function main(folder, sources) {
  ort.env.wasm.numThreads = 1;
  const config = JSON.parse(fs.readFileSync(path.join(folder, "config.json"), "utf8"));
  const open = (name) =>
    ort.InferenceSession.create(fs.readFileSync(path.join(folder, name)), {
      executionProviders: ["wasm"],
    });
  const [encoder, decoder] = [await open("encoder.onnx"), await open("decoder_step.onnx")];
  const ids = (values, shape) =>
    new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);
  const { bos, eos } = config.tokens;
  const targets = [];
  for (const source of sources) {
    const memory = await encoder.run({
      src: ids(source, [1, source.length]),
      src_lengths: ids([source.length], [1]),
    });
    let states = new ort.Tensor("float32", new Float32Array(config.state_size), [1, config.state_size]);
    let token = bos;
    const target = [];
    while (token !== eos && target.length < 2 * source.length + 20) {
      const step = await decoder.run({
        tokens: ids([token], [1]), parents: ids([0], [1]), num_best: ids([eos + 1], [1]), states,
        ...memory,
      });
      token = Array.from(step.best_ids.data, Number).find((id) => id >= eos);
      states = step.next_states;
      target.push(token);
    }
    targets.push(target);
  }
  console.log(JSON.stringify(targets));
}

main(process.argv[2], JSON.parse(process.argv[3]));
