// Runs the public client against GODWIT_URL with GODWIT_KEY. It prints one line for each call and ends with 1 when one went wrong.
'use strict'
const assert = require('node:assert/strict')
const {
  ApiKeySession, RetryWithExponentialBackoff, ProfilesApi, EventsApi, MetricsApi, ListsApi, DataPrivacyApi, FilterBuilder,
} = require('klaviyo-api')

const session = new ApiKeySession(process.env.GODWIT_KEY, new RetryWithExponentialBackoff({ numRetries: 1 }))
const open = (Api) => Object.assign(new Api(session), { basePath: process.env.GODWIT_URL })
const profiles = open(ProfilesApi), events = open(EventsApi), metrics = open(MetricsApi), lists = open(ListsApi), privacy = open(DataPrivacyApi)

const run = Date.now().toString(36) // names of this run
const email = (name) => `${name}-${run}@example.com`
const now = new Date()
const metric = `Placed Order ${run}`

async function call(name, work) {
  try {
    const out = await work()
    console.log('ok', name)
    return out
  } catch (err) {
    console.error('FAILED', name, err.response ? `${err.response.status} ${JSON.stringify(err.response.data)}` : err)
    process.exit(1)
  }
}

// later repeats a question until it is answered as wanted: what was accepted is visible soon, not at once.
async function later(name, work) {
  return call(name, async () => {
    for (let i = 0; ; i++) {
      try {
        return await work()
      } catch (err) {
        if (i === 100) throw err
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
  })
}

// refused expects an error of a status and returns its first entry.
async function refused(name, status, work) {
  return call(name, async () => {
    try {
      await work()
    } catch (err) {
      if (!err.response) throw err
      assert.equal(err.response.status, status)
      return err.response.data.errors[0]
    }
    assert.fail(`no error, want ${status}`)
  })
}

const event = (name, attributes, who) => ({ data: { type: 'event', attributes: {
  properties: { Shop: 'Paris' }, ...attributes,
  metric: { data: { type: 'metric', attributes: { name } } },
  ...(who ? { profile: { data: { type: 'profile', attributes: who } } } : {}),
} } })

async function ofProfiles() {
  const ada = await call('createProfile', async () => {
    const { response, body } = await profiles.createProfile({ data: { type: 'profile', attributes: {
      email: email('ADA'), firstName: 'Ada', location: { city: 'Paris', latitude: 48.85 }, properties: { plan: 'pro', Seats: 3 } } } })
    assert.equal(response.status, 201)
    assert.equal(body.data.attributes.email, email('ada'))
    assert.equal(body.data.attributes.firstName, 'Ada')
    assert.ok(body.data.attributes.created instanceof Date)
    return body.data.id
  })
  const conflict = await refused('createProfile again', 409, () => profiles.createProfile({ data: { type: 'profile', attributes: { email: email('ada') } } }))
  assert.equal(conflict.code, 'duplicate_profile')
  assert.equal(conflict.meta.duplicate_profile_id, ada)
  const bad = await refused('createProfile with a bad address', 400, () => profiles.createProfile({ data: { type: 'profile', attributes: { email: 'nobody' } } }))
  assert.equal(bad.source.pointer, '/data/attributes/email')

  await call('getProfile', async () => {
    const { body } = await profiles.getProfile(ada, { fieldsProfile: ['email', 'location.city', 'properties'], additionalFieldsProfile: ['subscriptions'] })
    assert.deepEqual(body.data.attributes.properties, { plan: 'pro', Seats: 3 })
    assert.equal(body.data.attributes.location.city, 'Paris')
    assert.equal(body.data.attributes.firstName, undefined)
  })
  await call('updateProfile', async () => {
    const { body } = await profiles.updateProfile(ada, { data: { type: 'profile', id: ada, attributes: { lastName: 'L', firstName: null } } })
    assert.equal(body.data.attributes.lastName, 'L')
    assert.equal(body.data.attributes.firstName, undefined)
  })
  await call('createOrUpdateProfile', async () => {
    const { response, body } = await profiles.createOrUpdateProfile({ data: { type: 'profile', attributes: { email: email('ada'), title: 'T' } } })
    assert.equal(response.status, 200)
    assert.equal(body.data.id, ada)
  })
  await call('getProfiles', async () => {
    const { body } = await profiles.getProfiles({ filter: new FilterBuilder().any('email', [email('ada'), email('nobody')]).build(), sort: '-created', pageSize: 10 })
    assert.deepEqual(body.data.map((p) => p.id), [ada])
  })
  return ada
}

async function ofEvents(ada) {
  await call('createEvent', async () => {
    const { response } = await events.createEvent(event(metric, { uniqueId: '1', value: 12.5, time: now }, { email: email('ada') }))
    assert.equal(response.status, 202)
  })
  await call('createEvent again', () => events.createEvent(event(metric, { uniqueId: '1', value: 12.5, time: now }, { email: email('ada') })))
  const bad = await refused('createEvent without a name', 400, () => events.createEvent(event('', {}, { email: email('ada') })))
  assert.equal(bad.source.pointer, '/data/attributes/metric/data/attributes/name')
  await call('bulkCreateEvents', async () => {
    const { response } = await events.bulkCreateEvents({ data: { type: 'event-bulk-create-job', attributes: { eventsBulkCreate: { data: [
      { type: 'event-bulk-create', attributes: { profile: { data: { type: 'profile', attributes: { email: email('bulk') } } },
        events: { data: [2, 3, 4].map((i) => event(metric, { uniqueId: `${i}`, value: i, time: now, properties: { Shop: 'Rome' } }).data) } } },
    ] } } } })
    assert.equal(response.status, 202)
  })
  const id = await later('getMetrics', async () => {
    let cursor
    do {
      const { body } = await metrics.getMetrics({ pageCursor: cursor })
      const found = body.data.find((m) => m.attributes.name === metric)
      if (found) return found.id
      cursor = body.links.next
    } while (cursor)
    assert.fail('the metric is not listed')
  })
  await call('getMetric', async () => assert.equal((await metrics.getMetric(id)).body.data.attributes.name, metric))
  const listed = await later('getEvents', async () => {
    const filter = new FilterBuilder().equals('profile_id', ada).equals('metric_id', id).greaterThan('datetime', new Date(now - 3600e3)).build()
    const { body } = await events.getEvents({ filter, include: ['metric', 'profile'], sort: '-datetime' })
    assert.equal(body.data.length, 1)
    assert.equal(body.data[0].attributes.eventProperties.Shop, 'Paris')
    assert.equal(body.included.length, 2)
    return body.data[0].id
  })
  await call('getEvent', async () => assert.equal((await events.getEvent(listed)).body.data.id, listed))
  return id
}

async function ofCounts(id) {
  const day = 24 * 3600e3, begin = new Date(Math.floor(now / day) * day)
  const ask = (more) => metrics.queryMetricAggregates({ data: { type: 'metric-aggregate', attributes: {
    metricId: id, measurements: ['count', 'sum_value', 'unique'], interval: 'day', timezone: 'UTC',
    filter: [`greater-or-equal(datetime,${begin.toISOString()})`, `less-than(datetime,${new Date(+begin + day).toISOString()})`], ...more } } })
  await later('queryMetricAggregates', async () => {
    const { body } = await ask({})
    const got = body.data.attributes
    assert.equal(got.dates.length, 1)
    assert.deepEqual(got.data[0].measurements, { count: [4], sum_value: [21.5], unique: [2] })
  })
  const bad = await refused('queryMetricAggregates without bounds', 400, () => ask({ filter: ['less-than(datetime,2026-01-01)'] }))
  assert.equal(bad.source.pointer, '/data/attributes/filter')
}

async function ofLists(ada) {
  const list = await call('createList', async () => (await lists.createList({ data: { type: 'list', attributes: { name: `List ${run}` } } })).body.data.id)
  await call('addProfilesToList', () => lists.addProfilesToList(list, { data: [{ type: 'profile', id: ada }] }))
  await later('getProfileIdsForList', async () => assert.deepEqual((await lists.getProfileIdsForList(list, { pageSize: 100 })).body.data.map((p) => p.id), [ada]))
  await call('getProfilesForList', async () => {
    const { body } = await lists.getProfilesForList(list)
    assert.ok(body.data[0].attributes.joinedGroupAt instanceof Date)
  })
  await call('getListsForProfile', async () => assert.deepEqual((await profiles.getListsForProfile(ada)).body.data.map((l) => l.id), [list]))
  await call('getLists', async () => {
    const { body } = await lists.getLists({ filter: new FilterBuilder().equals('name', `List ${run}`).build(), sort: 'name' })
    assert.deepEqual(body.data.map((l) => l.id), [list])
  })
  await call('getList', async () => assert.equal((await lists.getList(list, { additionalFieldsList: ['profile_count'] })).body.data.attributes.profileCount, 1))
  await call('updateList', () => lists.updateList(list, { data: { type: 'list', id: list, attributes: { name: `New ${run}` } } }))
  await call('removeProfilesFromList', () => lists.removeProfilesFromList(list, { data: [{ type: 'profile', id: ada }] }))
  return list
}

async function ofJobs(list) {
  const job = await call('bulkImportProfiles', async () => {
    const { body } = await profiles.bulkImportProfiles({ data: { type: 'profile-bulk-import-job', attributes: { profiles: { data: [
      { type: 'profile', attributes: { email: email('import') } }, { type: 'profile', attributes: { email: 'bad' } }] } },
      relationships: { lists: { data: [{ type: 'list', id: list }] } } } })
    return body.data.id
  })
  await later('getBulkImportProfilesJob', async () => {
    const { body } = await profiles.getBulkImportProfilesJob(job)
    assert.equal(body.data.attributes.status, 'complete')
    assert.deepEqual([body.data.attributes.totalCount, body.data.attributes.completedCount, body.data.attributes.failedCount], [2, 1, 1])
  })
  await later('getErrorsForBulkImportProfilesJob', async () => {
    const { body } = await profiles.getErrorsForBulkImportProfilesJob(job)
    assert.equal(body.data[0].attributes.source.pointer, '/data/attributes/profiles/data/1/attributes/email')
  })
  await call('getBulkImportProfilesJobs', () => profiles.getBulkImportProfilesJobs({ pageSize: 10 }))
  const people = (attributes) => ({ data: [{ type: 'profile', attributes: { email: email('import'), ...attributes } }] })
  const consent = (consent) => people({ subscriptions: { email: { marketing: { consent } } } })
  await call('bulkSubscribeProfiles', () => profiles.bulkSubscribeProfiles({ data: { type: 'profile-subscription-bulk-create-job',
    attributes: { profiles: consent('SUBSCRIBED') }, relationships: { list: { data: { type: 'list', id: list } } } } }))
  await later('getProfiles with subscriptions', async () => {
    const { body } = await profiles.getProfiles({ filter: new FilterBuilder().equals('email', email('import')).build(), additionalFieldsProfile: ['subscriptions'] })
    assert.equal(body.data[0].attributes.subscriptions.email.marketing.consent, 'SUBSCRIBED')
  })
  await call('bulkUnsubscribeProfiles', () => profiles.bulkUnsubscribeProfiles({ data: { type: 'profile-subscription-bulk-delete-job',
    attributes: { profiles: consent('UNSUBSCRIBED') } } }))
  const suppress = await call('bulkSuppressProfiles', async () => (await profiles.bulkSuppressProfiles({ data: { type: 'profile-suppression-bulk-create-job',
    attributes: { profiles: people({}) } } })).body.data.id)
  await later('getBulkSuppressProfilesJob', () => profiles.getBulkSuppressProfilesJob(suppress))
  await call('bulkUnsuppressProfiles', () => profiles.bulkUnsuppressProfiles({ data: { type: 'profile-suppression-bulk-delete-job', attributes: { profiles: people({}) } } }))
}

async function ofEnds(ada, list) {
  const source = await call('createProfile to merge', async () => (await profiles.createProfile({ data: { type: 'profile', attributes: { email: email('source') } } })).body.data.id)
  await call('mergeProfiles', async () => {
    const { response } = await profiles.mergeProfiles({ data: { type: 'profile-merge', id: ada, relationships: { profiles: { data: [{ type: 'profile', id: source }] } } } })
    assert.equal(response.status, 202)
  })
  await later('getProfile after a merge', async () => assert.equal((await profiles.getProfile(source)).body.data.id, ada))
  await call('deleteList', async () => assert.equal((await lists.deleteList(list)).response.status, 204))
  await call('requestProfileDeletion', () => privacy.requestProfileDeletion({ data: { type: 'data-privacy-deletion-job',
    attributes: { profile: { data: { type: 'profile', attributes: { email: email('ada') } } } } } }))
  await later('getProfile after deletion', () => assert.rejects(profiles.getProfile(ada), (err) => err.response?.status === 404))
}

async function main() {
  const ada = await ofProfiles()
  await ofCounts(await ofEvents(ada))
  const list = await ofLists(ada)
  await ofJobs(list)
  await ofEnds(ada, list)
}

main()
