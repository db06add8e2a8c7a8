// Reads 80 %, writes 15 %, estimates 5 %, at a steady rate whether the answers keep up or not.
import http from 'k6/http';
import { check } from 'k6';

const base = __ENV.BASE;
const tokens = JSON.parse(__ENV.TOKENS);
const ids = JSON.parse(__ENV.IDS);
const day = __ENV.DAY;

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['avg', 'p(50)', 'p(95)', 'p(99)', 'max'],
  scenarios: {
    mix: {
      executor: 'constant-arrival-rate', rate: Number(__ENV.RATE), timeUnit: '1s', duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.CONNECTIONS), maxVUs: Number(__ENV.CONNECTIONS),
    },
  },
};

function pick(list) { return list[Math.floor(Math.random() * list.length)]; }

export default function () {
  const params = {
    headers: { Authorization: `Bearer ${pick(tokens)}`, 'Content-Type': 'application/json' }, timeout: '10s',
  };
  const dice = Math.random();
  let answer;
  if (dice < 0.30) {
    answer = http.get(`${base}/api/customers?limit=20&page=${1 + Math.floor(Math.random() * 5)}`, { ...params, tags: { kind: 'read' } });
  } else if (dice < 0.60) {
    answer = http.get(`${base}/api/customers/${pick(ids)}`, { ...params, tags: { kind: 'read' } });
  } else if (dice < 0.80) {
    answer = http.get(`${base}/api/jobs?limit=20`, { ...params, tags: { kind: 'read' } });
  } else if (dice < 0.95) {
    const body = JSON.stringify({ leadScore: Math.floor(Math.random() * 101) });
    answer = http.patch(`${base}/api/customers/${pick(ids)}`, body, { ...params, tags: { kind: 'write' } });
  } else {
    const body = JSON.stringify({ service: 'local', moveDate: day, volume: 900 });
    answer = http.post(`${base}/api/estimates/calculate`, body, { ...params, tags: { kind: 'estimate' } });
  }
  // Two edits that meet are told so (409): that is no error.
  check(answer, { served: (r) => r.status === 200 || r.status === 409 });
}
