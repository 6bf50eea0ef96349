// The lines that a driver reads and writes: tests/clients/drivers/__init__.py says what they hold.
import { createInterface } from "node:readline";

export const URL = process.argv[2];
export const KEY = "sk-test";
export const TOOL = "get_weather";
export const ABOUT = "The weather in a city.";
export const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const say = (outcome) => process.stdout.write(JSON.stringify(outcome) + "\n");

export async function main(ask) {
  say({});
  for await (const line of createInterface({ input: process.stdin })) {
    const order = { model: "sim", ran: [], ...JSON.parse(line) };
    order.run = (city) => (order.ran.push(city), "sunny");
    let text = "", error = null;
    try {
      text = await ask(order);
    } catch (caught) {
      error = `${caught?.name}: ${caught?.message} ${caught?.responseBody ?? ""}`;
    }
    say({ text, error, ran: order.ran });
  }
}
