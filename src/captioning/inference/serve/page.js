"use strict";
const at = (id) => document.getElementById(id);
const copyOf = (id) => at(id).content.cloneNode(true).firstElementChild;
let token = sessionStorage.getItem("token") || "";

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { ...options, headers }).catch(() => { throw new Error("the server can't be reached"); });
  if (answer.status === 401) at("locked").hidden = false;
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const { detail } = content;
  throw new Error(Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ") : detail || `the server answers ${answer.status}`);
}

async function start() { // the settings are those that the API describes
  const { JsonRequest } = (await ask("openapi.json")).components.schemas;
  for (const [name, { type, anyOf, maxLength, description }] of Object.entries(JsonRequest.properties)) {
    if (name === "images") continue;
    const label = copyOf("field");
    label.querySelector("b").textContent = name;
    label.querySelector(".note").textContent = description;
    const input = label.querySelector("input");
    input.name = name;
    if (type === "string") input.maxLength = maxLength;
    else Object.assign(input, { type: "number", step: (anyOf?.[0].type ?? type) === "integer" ? 1 : "any" });
    at("fields").append(label);
  }
  await showModel();
}

async function showModel() {
  const { model, urls, decoding } = await ask("v1/model");
  for (const [name, value] of Object.entries(decoding)) at("settings").elements[name].placeholder = value ?? "off";
  at("address").hidden = !urls;
  at("status").textContent = "";
  at("model").textContent = model;
}

function add(image) { // a File, or a URL
  const card = copyOf("card");
  const view = card.querySelector("img");
  card.image = image;
  card.querySelector(".note").textContent = image.name ?? image;
  view.hidden = !(image instanceof File);
  if (!view.hidden) {
    view.src = URL.createObjectURL(image);
    view.onload = view.onerror = () => URL.revokeObjectURL(view.src);
  }
  at("cards").prepend(card);
  caption(card);
}

async function caption(card) { // a browser sends a few requests at once, and the server makes batches of them
  const turn = card.turn = {};
  card.classList.add("waiting");
  let result;
  try {
    [result] = (await request(card.image)).results;
  } catch (error) {
    result = { captions: [], error: error.message };
  }
  if (turn !== card.turn) return;
  card.classList.remove("waiting");
  card.querySelector(".captions").replaceChildren(...result.captions.map(({ text, score }) => {
    const line = copyOf("caption");
    line.querySelector(".text").textContent = text || "(an empty caption)";
    line.querySelector(".score").textContent = score.toFixed(2);
    return line;
  }));
  card.querySelector("img").alt = result.captions[0]?.text || "";
  card.querySelector(".error").textContent = result.error || "";
  card.querySelector(".error").hidden = !result.error;
}

function request(image) {
  const given = [...at("fields").querySelectorAll("input")].filter(({ value }) => value !== "");
  if (image instanceof File) {
    const form = new FormData();
    form.append("images", image);
    for (const { name, value } of given) form.append(name, value);
    return ask("v1/captions/upload", { method: "POST", body: form });
  }
  const settings = Object.fromEntries(given.map(({ name, value, type }) => [name, type === "number" ? Number(value) : value]));
  return ask("v1/captions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ images: [{ url: image }], ...settings }) });
}

const show = (error) => { at("status").textContent = error.message; };
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => { event.preventDefault(); [...event.dataTransfer.files].forEach(add); });
document.addEventListener("paste", (event) => [...event.clipboardData.files].forEach(add));
at("files").addEventListener("change", () => { [...at("files").files].forEach(add); at("files").value = ""; });
at("address").addEventListener("submit", (event) => { event.preventDefault(); add(at("url").value); at("address").reset(); });
at("token").addEventListener("change", () => { token = at("token").value.trim(); sessionStorage.setItem("token", token); showModel().catch(show); });
at("settings").addEventListener("submit", (event) => { event.preventDefault(); [...at("cards").children].forEach(caption); });
start().catch(show);
